//! Tables of good and bad cases.
