//! Sampling: filters, penalties, and the Gumbel-coupled pick.
