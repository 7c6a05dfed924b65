//! Rows by the million, as years of uploads leave them, made by the database itself.
//!
//! Every original has three images; every third original's last image is deleted. Half of all belongs
//! to the tenant `default`, the rest to 500 others. Ids and times ascend together, as in service, and
//! hashes are spread evenly.

/// What there is to insert, and for which database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    /// PostgreSQL, or else SQLite.
    pub(crate) postgres: bool,
    /// How many originals; there are three times as many images.
    pub(crate) originals: u64,
}

/// When the first row was made: seconds since 1970. Each image is a second later.
pub(crate) const FIRST_SECOND: u64 = 1_700_000_000;
/// The length of every original.
const FILE_BYTES: u32 = 100_000;

impl Bulk {
    /// How many images there are, live and deleted.
    pub(crate) fn images(self) -> u64 {
        self.originals * 3
    }

    /// Inserts the originals `from..=through`, counted from 0.
    pub(crate) fn insert_originals(self, from: u64, through: u64) -> String {
        let Self { postgres, .. } = self;
        let (id, hash, time) = (self.id("n"), self.hash("n"), self.time("n"));
        let (id_bytes, hash_bytes) = (self.uuid("id"), self.bytes("hash"));
        let tenant = tenant("n");
        let key = "substr(hash, 1, 2) || '/' || hash || '/' || substr(id, 1, 8) || '-' || substr(id, 9, 4)
            || '-' || substr(id, 13, 4) || '-' || substr(id, 17, 4) || '-' || substr(id, 21)";
        let numbers = numbers(postgres, from, through);
        format!(
            "INSERT INTO original_images (id, scope, content_hash, file_size, s3_key, mime_type, width,
                height, state, reference_count, put_deadline, next_try, created_at, updated_at, stored_at)
             WITH {numbers},
             made AS (SELECT n, {tenant} AS tenant, {id} AS id, {hash} AS hash, {time} AS time FROM numbers)
             SELECT {id_bytes}, tenant, {hash_bytes}, {FILE_BYTES}, {key}, 'image/jpeg', 1600, 1200,
                'stored', CASE WHEN n % 3 = 0 THEN 2 ELSE 3 END, time, time, time, time, time FROM made"
        )
    }

    /// Inserts the images `from..=through`, counted from 0; their originals must be there first.
    pub(crate) fn insert_images(self, from: u64, through: u64) -> String {
        let Self {
            postgres,
            originals,
        } = self;
        let numbers = numbers(postgres, from, through);
        let original = format!("(m % {originals})");
        let (id, time) = (self.uuid(&self.id("m")), self.time("m"));
        let original_id = self.uuid(&self.id(&original));
        let hash = self.bytes(&self.hash(&original));
        let tenant = tenant(&original);
        let deleted = format!("m >= {} AND {original} % 3 = 0", originals * 2);
        format!(
            "INSERT INTO images (id, tenant, original_image_id, was_original_id, content_hash, file_size,
                filename, mime_type, deduplicated, created_at, deleted_at)
             WITH {numbers},
             made AS (SELECT n AS m, {deleted} AS is_deleted FROM (SELECT n, n AS m FROM numbers) AS named)
             SELECT {id}, {tenant}, CASE WHEN NOT is_deleted THEN {original_id} END,
                CASE WHEN is_deleted THEN {original_id} END, {hash}, {FILE_BYTES}, 'IMG_' || m || '.jpg',
                'image/jpeg', {deduplicated}, {time}, CASE WHEN is_deleted THEN {time} END FROM made",
            deduplicated = if postgres {
                format!("m >= {originals}")
            } else {
                format!("CAST(m >= {originals} AS integer)")
            },
        )
    }

    /// A version 7 UUID in hex: its time, then what tells it from others.
    fn id(self, number: &str) -> String {
        let milliseconds = self.hex(12, &format!("({FIRST_SECOND} + {number}) * 1000"));
        let (version, random) = (
            self.hex(3, &format!("{number} % 4096")),
            self.hex(
                15,
                &format!("({number} * 2654435761) % 1152921504606846976"),
            ),
        );
        format!("({milliseconds} || '7' || {version} || '8' || {random})")
    }

    /// 32 bytes in hex, the first of which are spread evenly.
    fn hash(self, number: &str) -> String {
        let (spread, rest) = (
            self.hex(8, &format!("({number} * 2654435761) % 4294967296")),
            self.hex(56, number),
        );
        format!("({spread} || {rest})")
    }

    fn hex(self, width: u8, number: &str) -> String {
        match self.postgres {
            true => format!("lpad(to_hex({number}), {width}, '0')"),
            false => format!("printf('%0{width}x', {number})"),
        }
    }

    fn bytes(self, hex: &str) -> String {
        match self.postgres {
            true => format!("decode({hex}, 'hex')"),
            false => format!("unhex({hex})"),
        }
    }

    fn uuid(self, hex: &str) -> String {
        match self.postgres {
            true => format!("({hex})::uuid"),
            false => format!("unhex({hex})"),
        }
    }

    fn time(self, number: &str) -> String {
        match self.postgres {
            true => format!("to_timestamp({FIRST_SECOND} + {number})"),
            false => format!(
                "strftime('%Y-%m-%dT%H:%M:%f+00:00', {FIRST_SECOND} + {number}, 'unixepoch')"
            ),
        }
    }
}

fn tenant(number: &str) -> String {
    format!("CASE WHEN {number} % 2 = 0 THEN 'default' ELSE 't' || ({number} % 1000) END")
}

fn numbers(postgres: bool, from: u64, through: u64) -> String {
    match postgres {
        true => {
            format!("numbers(n) AS (SELECT generate_series({from}::bigint, {through}::bigint))")
        }
        false => format!(
            "RECURSIVE numbers(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM numbers WHERE n < {through})"
        ),
    }
}
