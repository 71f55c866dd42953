"""Judges: vision-language models that score edits by a rubric. Their replies are stored, and a failure is no number.

==============  =====================================================================
module          what it does
==============  =====================================================================
``rubrics``     reads a rubric: its questions, the scale, how scores become columns
``reading``     reads the scores in a reply, or says why there are none
``prices``      what calls may cost, and did cost
``options``     the options of a judge, and its identity
``chat``        one question to the server: images and text, and its reply
``replies``     the log of all replies of a judge in a run folder
``cache``       the replies that all runs share
``asking``      asks what has no reply, some at one time
``pointwise``   judges the edits of a run, and writes the scores
``pairwise``    asks which of two edits is better, and writes votes
``world``       the attribute classifier of the rendered world as a judge, on this machine
``columns``     the declarations of the columns, for tables and lists
==============  =====================================================================
"""
