"""Many videos by several workers that share nothing but a folder: each appears there whole, once, whoever dies.

prompt_file   rows of a text, JSON lines, CSV or parquet file, one after the other
folder        a video's place, which is there whole or not at all
leases        who works on what
worker        takes rows until all are made
cluster       workers that Ray places
team          several processes that make each video together
figures       what is said of one video
table         a line for each row of the file
"""
