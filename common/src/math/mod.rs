//! Elementary functions in f64 that give the same bits on every machine.
