//! The decoder: a stack of bands through which ragged sets of rows advance.
