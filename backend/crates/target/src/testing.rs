//! Test equipment: not part of the product.
