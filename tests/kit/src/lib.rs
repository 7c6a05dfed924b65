//! What tests, benchmark and soak all stand on: [`postgres`], a throw-away cluster, and [`s3`], an S3
//! server in a folder. Knows nothing of Hapax.

pub mod postgres;
#[cfg(feature = "s3")]
pub mod s3;
