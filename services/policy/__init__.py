"""The policy service: samples completions, every token with its log-prob; log-probs of given tokens.

__main__.py             settings, and the process
service.py              the edge: messages in, messages out
door.py                 what is refused, and from prompts to rows of ids
engine.py               what an engine has to do
transformers_engine.py  the engine on transformers
sampling.py             the mathematics of one draw
"""
