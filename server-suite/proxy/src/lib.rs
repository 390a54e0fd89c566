//! The only door from outside.
