//! holdfast-k8s
