//! Tables of good and bad values.
