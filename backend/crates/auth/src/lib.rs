//! holdfast-auth
