//! Runs the goldenscripts.
