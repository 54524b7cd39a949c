"""A small model made from nothing but a file of text: its tokenizer is trained there, its weights are random.

It stands in for a pretrained model where none can be had: to see that an architecture or a data set runs
through, and what it comes to. Nothing about the text is known here but where a dialogue begins.
"""
