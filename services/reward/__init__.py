"""The reward service: learned scalar models and rules, hosted side by side by name.

__main__.py      the process
settings.py      what it is told
hosting.py       which scorers there are, what they load, when the service is ready
service.py       the edge: messages in, messages out
scorers.py       what a scorer is asked and what it answers
learned.py       a scalar model as a scorer
rules.py         a function as a scorer
combined.py      several scorers as one: ensembles and objectives
combinations.py  how they are combined, as text
combining.py     the mathematics of it
metrics.py       what it shows on /metrics
"""
