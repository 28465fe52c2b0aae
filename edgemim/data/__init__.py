"""Images from anywhere: bundled digits, folders, parquet, webdataset shards, the Hugging Face Hub.

`edgemim.data.open` finds the source of a data set, `edgemim.data.images` is what it returns, and
`edgemim.data.cache` decodes it once for fast epochs. Nothing here imports torch.
"""
