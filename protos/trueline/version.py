"""The client's version: in the wheel's name, in every call's user agent."""

__version__ = "0.1.0"
