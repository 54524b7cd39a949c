"""The policy service: samples completions, every token with its log-prob; log-probs of given tokens.

__main__.py             settings, and the process
service.py              the edge: messages in, messages out
door.py                 what is refused, and from prompts to rows of ids
engine.py               what an engine has to do
engines.py              which engine, by the settings
transformers_engine.py  the engine on transformers
remote_engine.py        what engines behind an HTTP API share: one version at a time, chunks, checks
vllm_engine.py tgi_engine.py     what each of them speaks
http_calls.py           one request: attempts, pauses, what went wrong
turns.py                so many requests at once, those of all chunks together
sampling.py             the mathematics of one draw
"""
