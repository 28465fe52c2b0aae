"""TensorRT and TensorRT for RTX: one code for every version from 8.6 on, told apart by what their Python API has."""
