"""The reference service: log-probs of given tokens under a frozen model.

__main__.py   settings, and the process
service.py    the edge: messages in, messages out
hosting.py    the model and what holds it
"""
