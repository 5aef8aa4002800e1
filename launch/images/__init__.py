"""Converted images: opened by name, checked, compared, told about, made local. Know no mount."""
