//! Block formats: the reference dequantizer and quantizer of every type.
