"""HTML reports of one run, or comparing several, made from their workdirs.

Import `pages` only to write a report: it imports Matplotlib, which takes a second.
"""
