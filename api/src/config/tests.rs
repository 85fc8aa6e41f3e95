//! Tables of good and bad files.
