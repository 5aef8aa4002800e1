"""The command line: which verbs there are, what a failure looks like, and which code it ends with."""
