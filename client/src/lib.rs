//! A thin client for stockd.
#![forbid(unsafe_code)]
