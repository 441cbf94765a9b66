//! Tests of the types against the files that are installed, and of reading what is stored.

mod crds;
mod policy;
mod reading;
