"""Reports: one HTML file that shows what a run did, or how several compare, made from their workdirs.

`pages` needs Matplotlib, which takes a second to import: commands that only may write a report import it when they do.
"""
