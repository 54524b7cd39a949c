"""The helpdesk world: customers write about an item, agents answer, and a gold score knows how well.

words.py        what can be said: items, problems, actions, and the phrases around them
customers.py    a customer's first message and the reaction to a reply
agents.py       agents who err aspect by aspect
gold.py         the gold score, a rule scorer named `worlds.helpdesk.gold:score`
judging.py      what a judge learns from, in the words of constitution.yaml
model.py        a randomly initialised tiny Llama with a tokenizer and a chat template
prepare.py      writes the model and the data of one seed
"""
