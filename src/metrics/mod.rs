//! Alignments, KID, and the statistics around them.
