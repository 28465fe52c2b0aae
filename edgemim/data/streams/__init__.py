"""Sets larger than memory and disk, read where they lie: parquet or webdataset shards, here or in an object store.

`open.py` turns what the user wrote into the indices of its splits; `index.py` knows where each image lies; `files.py`
reaches the files through fsspec; `parquet.py` and `tar.py` read one kind of shard each. Nothing here imports torch.
"""
