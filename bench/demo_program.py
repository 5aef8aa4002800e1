"""The program of the demo image: imports what a larger service would, says READY, waits.

It runs inside the container with Debian's Python and uses the standard library only, among it modules in C
(`_ssl`, `_sqlite3`, `_ctypes`, `_decimal` …). Nothing of nopull is there. It waits for the end of its input,
so that whoever measures can look at it.
"""

# ruff: noqa: F401 - importing is what it is for

from __future__ import annotations

import abc
import argparse
import array
import ast
import asyncio
import base64
import binascii
import bisect
import bz2
import calendar
import cmath
import code
import codecs
import collections
import collections.abc
import colorsys
import compileall
import concurrent.futures
import configparser
import contextlib
import contextvars
import copy
import csv
import ctypes
import ctypes.util
import dataclasses
import datetime
import dbm
import decimal
import difflib
import dis
import doctest
import email
import email.mime.multipart
import email.mime.text
import email.parser
import encodings.idna
import enum
import filecmp
import fileinput
import fnmatch
import fractions
import ftplib
import functools
import getopt
import getpass
import gettext
import glob
import graphlib
import gzip
import hashlib
import heapq
import hmac
import html
import html.parser
import http
import http.client
import http.cookiejar
import http.cookies
import http.server
import imaplib
import importlib.metadata
import importlib.resources
import inspect
import io
import ipaddress
import itertools
import json
import keyword
import linecache
import locale
import logging
import logging.config
import logging.handlers
import lzma
import mailbox
import math
import mimetypes
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.pool
import netrc
import numbers
import opcode
import operator
import optparse
import os
import pathlib
import pdb
import pickle
import pkgutil
import platform
import plistlib
import poplib
import pprint
import profile
import pstats
import queue
import quopri
import random
import re
import readline
import resource
import rlcompleter
import runpy
import sched
import secrets
import select
import selectors
import shelve
import shlex
import shutil
import signal
import site
import smtplib
import socket
import socketserver
import sqlite3
import ssl
import stat
import statistics
import string
import struct
import subprocess
import symtable
import sys
import sysconfig
import syslog
import tarfile
import tempfile
import termios
import textwrap
import threading
import timeit
import token
import tokenize
import tomllib
import trace
import traceback
import tracemalloc
import types
import typing
import unicodedata
import unittest
import unittest.mock
import urllib.parse
import urllib.request
import urllib.robotparser
import uuid
import venv
import warnings
import wave
import weakref
import webbrowser
import wsgiref.simple_server
import xml.dom.minidom
import xml.etree.ElementTree
import xml.sax
import xmlrpc.client
import xmlrpc.server
import zipapp
import zipfile
import zipimport
import zlib
import zoneinfo


def main() -> None:
    """Use a few of the compiled modules for real, report, wait."""
    with sqlite3.connect(":memory:") as database:
        assert database.execute("select 1").fetchone() == (1,)
    ssl.create_default_context()
    asyncio.run(asyncio.sleep(0))
    print(f"READY {len(sys.modules)} modules", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
