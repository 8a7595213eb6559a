//! holdfast-db
