//! holdfast-shared
