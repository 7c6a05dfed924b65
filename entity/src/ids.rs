//! Typed identifiers: an image's id can never be passed where an original's is meant.

use std::fmt;

use sea_orm::prelude::Uuid;
use sea_orm::{DbErr, DeriveValueType, TryFromU64};

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, DeriveValueType)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        // SeaORM asks every primary key for this; no database here numbers these rows itself.
        impl TryFromU64 for $name {
            fn try_from_u64(_: u64) -> Result<Self, DbErr> {
                Err(DbErr::ConvertFromU64(stringify!($name)))
            }
        }
    };
}

typed_id!(
    /// One user's reference to an original. Chosen before the commit (rule R10).
    ImageId
);
typed_id!(
    /// One generation of a content. Never reused (rule R1).
    OriginalId
);
typed_id!(
    /// Names the writer of a pending row; whoever does not hold it may not commit the row.
    LeaseToken
);
typed_id!(
    /// An API key's public name: shown in lists, used to revoke it.
    ApiKeyId
);
