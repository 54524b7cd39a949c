"""The judge service: compares, scores, critiques and revises by a constitution, asked in both orders.

__main__.py       the process, and `import`
settings.py       what it is told
hosting.py        the constitution in force, who reads it, when the service is ready
service.py        the edge: messages in, messages out
wire.py           messages to records and back
constitution.py   the file: principles, read strictly, versioned by content
wording.py        how the questions are put
principles.py     which principles judge an item
asking.py         one call: from items to questions, from answers to outcomes
verdicts.py       from answers to verdicts and scores
labels.py         the mathematics of that
records.py        what a back end is asked and answers
local.py          a causal language model as the back end
endpoint.py       an OpenAI-compatible endpoint as the back end
transport.py      its requests: attempts, back-off, deadlines
pace.py           how fast it is asked
answers.py        what it wrote, read
importing.py      public file shapes made into a constitution
metrics.py        what it shows on /metrics
"""
