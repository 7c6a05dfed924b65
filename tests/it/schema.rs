//! The schema: up, down and up again, and every forbidden state refused by the database itself.

use migration::{Migrator, MigratorTrait};
use sea_orm::ConnectionTrait;

use crate::harness::{Context, LEGACY_URL, Outside, cases, count_of};

cases! {
    both: [
        migrations_go_up_and_down_and_up,
        a_state_must_be_one_of_three,
        a_count_is_never_negative,
        only_stored_rows_are_counted,
        zero_since_goes_with_the_count,
        a_stored_row_says_since_when,
        a_pending_row_has_a_lease,
        a_content_is_stored_once,
        a_key_is_used_once,
        a_hash_has_32_bytes,
        a_size_is_never_negative,
        a_referenced_original_cannot_go,
        an_image_points_at_an_original_that_exists,
        a_deleted_image_points_nowhere,
        a_live_image_points_somewhere,
        a_legacy_image_has_a_url_and_no_original,
        a_webhook_id_is_taken_once_per_source,
        one_store_per_database,
        a_key_hash_is_unique,
        a_count_is_in_no_index,
        migrate_commands,
        an_older_table_is_set_aside_and_comes_back,
        an_older_table_that_cannot_be_taken_over_is_left_alone,
    ],
}

/// SQL literals that differ between the two databases.
#[derive(Clone, Copy)]
struct Literals {
    sqlite: bool,
}

impl Literals {
    fn id(self, n: u8) -> String {
        match self.sqlite {
            true => format!("unhex('{n:032x}')"),
            false => format!("'00000000-0000-0000-0000-{n:012x}'::uuid"),
        }
    }

    fn hash(self, n: u8) -> String {
        self.bytes(&format!("{n:02x}").repeat(32))
    }

    fn bytes(self, hex: &str) -> String {
        match self.sqlite {
            true => format!("unhex('{hex}')"),
            false => format!("'\\x{hex}'::bytea"),
        }
    }

    fn now(self) -> &'static str {
        match self.sqlite {
            true => "'2026-01-01T00:00:00.000+00:00'",
            false => "now()",
        }
    }

    fn truth(self) -> &'static str {
        if self.sqlite { "1" } else { "true" }
    }

    /// A stored original with this number of references.
    fn stored(self, n: u8, hash: u8, count: u8) -> String {
        let zero_since = if count == 0 { self.now() } else { "NULL" };
        format!(
            "INSERT INTO original_images (id, scope, content_hash, file_size, s3_key, state,
               reference_count, put_deadline, zero_since, stored_at)
             VALUES ({}, 'default', {}, 5, 'key-{n}', 'stored', {count}, {now}, {zero_since}, {now})",
            self.id(n),
            self.hash(hash),
            now = self.now(),
        )
    }

    /// An image of an original; `more` are further columns and values.
    fn image(self, n: u8, original: Option<u8>, more: &[(&str, &str)]) -> String {
        let original = original.map_or("NULL".to_owned(), |n| self.id(n));
        let names: String = more.iter().map(|(name, _)| format!(", {name}")).collect();
        let values: String = more.iter().map(|(_, value)| format!(", {value}")).collect();
        format!(
            "INSERT INTO images (id, original_image_id, content_hash, file_size{names})
             VALUES ({}, {original}, {}, 5{values})",
            self.id(n),
            self.hash(1),
        )
    }
}

async fn migrated(ctx: &mut Context) -> (Outside, Literals) {
    ctx.without_end_check("no server ever ran on these rows");
    ctx.hapax(&["migrate", "up"]).exits_with(0);
    let outside = ctx.outside().await;
    let sqlite = ctx.is_sqlite();
    (outside, Literals { sqlite })
}

/// The database refuses the statement because of a constraint, not because it is misspelled.
async fn refused(outside: &Outside, statement: &str) {
    let result = outside.database.execute_unprepared(statement).await;
    let error = result.expect_err(statement).to_string();
    assert!(
        error.to_lowercase().contains("constraint"),
        "{statement}: {error}"
    );
}

async fn migrations_go_up_and_down_and_up(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    let database = &outside.database;
    Migrator::down(database, None).await.expect("down");
    for table in [
        "original_images",
        "images",
        "webhook_events",
        "store_meta",
        "api_keys",
        "usage_counters",
        "verify_passes",
    ] {
        let statement = format!("SELECT 1 FROM {table}");
        let gone = database.execute_unprepared(&statement).await;
        assert!(gone.is_err(), "{table} is gone");
    }
    Migrator::up(database, None).await.expect("up again");
    Migrator::up(database, None)
        .await
        .expect("nothing left to do");
    outside.sql(&sql.stored(1, 1, 1)).await;
    outside.sql(&sql.image(1, Some(1), &[])).await;
}

async fn a_state_must_be_one_of_three(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 0)).await;
    refused(&outside, "UPDATE original_images SET state = 'gone'").await;
}

async fn a_count_is_never_negative(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 0)).await;
    let down =
        "UPDATE original_images SET reference_count = reference_count - 1, zero_since = NULL";
    refused(&outside, down).await;
}

async fn only_stored_rows_are_counted(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    refused(&outside, "UPDATE original_images SET state = 'deleting'").await;
}

async fn zero_since_goes_with_the_count(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    refused(&outside, "UPDATE original_images SET reference_count = 0").await;
    let both = format!("UPDATE original_images SET zero_since = {}", sql.now());
    refused(&outside, &both).await;
}

async fn a_stored_row_says_since_when(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    refused(&outside, "UPDATE original_images SET stored_at = NULL").await;
}

async fn a_pending_row_has_a_lease(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 0)).await;
    let pending = "UPDATE original_images SET state = 'pending', zero_since = NULL";
    refused(&outside, pending).await;
}

async fn a_content_is_stored_once(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    refused(&outside, &sql.stored(2, 1, 1)).await;
    outside.sql(&sql.stored(3, 2, 1)).await;
    // Another scope, and a generation that is going, may hold the same content.
    outside
        .sql(&sql.stored(4, 1, 1).replace("'default'", "'other'"))
        .await;
    let going = sql.stored(5, 1, 0).replace("'stored'", "'deleting'");
    outside.sql(&going).await;
}

async fn a_key_is_used_once(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    let same_key = sql.stored(2, 2, 1).replace("key-2", "key-1");
    refused(&outside, &same_key).await;
}

async fn a_hash_has_32_bytes(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    let short = sql.bytes("abcd");
    refused(
        &outside,
        &format!("UPDATE original_images SET content_hash = {short}"),
    )
    .await;
    outside.sql(&sql.image(1, Some(1), &[])).await;
    refused(
        &outside,
        &format!("UPDATE images SET content_hash = {short}"),
    )
    .await;
}

async fn a_size_is_never_negative(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    refused(&outside, "UPDATE original_images SET file_size = -1").await;
    outside.sql(&sql.image(1, Some(1), &[])).await;
    refused(&outside, "UPDATE images SET file_size = -1").await;
}

async fn a_referenced_original_cannot_go(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    outside.sql(&sql.image(1, Some(1), &[])).await;
    refused(&outside, "DELETE FROM original_images").await;
}

async fn an_image_points_at_an_original_that_exists(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    refused(&outside, &sql.image(1, Some(9), &[])).await;
}

async fn a_deleted_image_points_nowhere(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    let deleted = [("deleted_at", sql.now())];
    refused(&outside, &sql.image(1, Some(1), &deleted)).await;
    // The row that a deletion leaves behind does not keep its original from going (seed-restrict-fk).
    outside.sql(&sql.image(1, None, &deleted)).await;
    outside.sql("DELETE FROM original_images").await;
}

async fn a_live_image_points_somewhere(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    refused(&outside, &sql.image(1, None, &[])).await;
}

async fn a_legacy_image_has_a_url_and_no_original(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    let url = format!("'{LEGACY_URL}'");
    let legacy = [("legacy", sql.truth())];
    let with_url = [legacy[0], ("original_url", url.as_str())];
    refused(&outside, &sql.image(1, None, &legacy)).await;
    outside.sql(&sql.image(1, None, &with_url)).await;
    outside.sql(&sql.stored(1, 1, 1)).await;
    refused(&outside, &sql.image(2, Some(1), &with_url)).await;
}

async fn a_webhook_id_is_taken_once_per_source(ctx: &mut Context) {
    let (outside, _) = migrated(ctx).await;
    let receipt = |source: &str| {
        format!(
            "INSERT INTO webhook_events (source, event_id, result) VALUES ('{source}', 'e1', '{{}}')"
        )
    };
    outside.sql(&receipt("a")).await;
    refused(&outside, &receipt("a")).await;
    outside.sql(&receipt("b")).await;
}

async fn one_store_per_database(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    let store = |n| format!("INSERT INTO store_meta (store_id) VALUES ({})", sql.id(n));
    outside.sql(&store(1)).await;
    refused(&outside, &store(2)).await;
}

async fn a_key_hash_is_unique(ctx: &mut Context) {
    let (outside, sql) = migrated(ctx).await;
    let key = |n, tenant: &str| {
        format!(
            "INSERT INTO api_keys (id, tenant, name, key_hash, scopes)
             VALUES ({}, '{tenant}', 'n', {}, 'read')",
            sql.id(n),
            sql.hash(1)
        )
    };
    refused(&outside, &key(1, "")).await;
    outside.sql(&key(1, "a")).await;
    refused(&outside, &key(2, "a")).await;
}

/// What changes with each upload and deletion would be written to every index that names it; on PostgreSQL
/// to all indexes of the row, as soon as one of them does.
async fn a_count_is_in_no_index(ctx: &mut Context) {
    let (outside, _) = migrated(ctx).await;
    let (indexes, table, text) = match ctx.is_sqlite() {
        true => ("sqlite_schema WHERE type = 'index'", "tbl_name", "sql"),
        false => ("pg_indexes WHERE true", "tablename", "indexdef"),
    };
    let of_originals = format!("SELECT count(*) FROM {indexes} AND {table} = 'original_images'");
    assert!(count_of(&outside, &of_originals).await >= 4);
    for column in ["reference_count", "updated_at"] {
        let naming = format!("{of_originals} AND {text} LIKE '%{column}%'");
        assert_eq!(count_of(&outside, &naming).await, 0, "{column}");
    }
}

/// `hapax migrate status|down|up` by hand.
async fn migrate_commands(ctx: &mut Context) {
    ctx.without_end_check("the schema is taken down on the way");
    let before = ctx.hapax(&["migrate", "status"]).exits_with(0);
    assert_eq!(
        before.stdout.to_lowercase().matches("pending").count(),
        Migrator::migrations().len(),
        "{}",
        before.stdout
    );
    ctx.hapax(&["migrate", "up"]).exits_with(0);
    let after = ctx.hapax(&["migrate", "status"]).exits_with(0);
    assert_eq!(
        after.stdout.to_lowercase().matches("applied").count(),
        Migrator::migrations().len(),
        "{}",
        after.stdout
    );
    ctx.hapax(&["migrate", "up"]).exits_with(0);
    ctx.hapax(&["migrate", "down"]).exits_with(0);
    ctx.hapax(&["migrate", "up"]).exits_with(0);
    let api = ctx.start().await;
    api.upload(&b"after going down and up"[..])
        .await
        .expect(201);
    ctx.hapax(&["migrate", "sideways"]).exits_with(2);
}

async fn an_older_table_is_set_aside_and_comes_back(ctx: &mut Context) {
    ctx.without_end_check("the schema is taken down on the way");
    let outside = ctx.outside().await;
    outside
        .sql("CREATE TABLE images (id varchar(36) PRIMARY KEY, original_url text, extra text)")
        .await;
    let id = "0190d9b2-aaaa-4bbb-8ccc-123456789abc";
    outside
        .sql(&format!(
            "INSERT INTO images VALUES ('{id}', '{LEGACY_URL}', 'kept')"
        ))
        .await;
    outside
        .sql("INSERT INTO images VALUES ('no-uuid', NULL, 'has no url')")
        .await;
    Migrator::up(&outside.database, None).await.expect("up");
    let adopted = outside.images().await;
    assert_eq!(adopted.len(), 1, "only what has a URL is taken over");
    assert_eq!(adopted[0].id.to_string(), id);
    assert!(adopted[0].legacy);
    assert_eq!(adopted[0].original_url.as_deref(), Some(LEGACY_URL));

    Migrator::down(&outside.database, None).await.expect("down");
    let back = outside.sql("UPDATE images SET extra = extra").await;
    assert_eq!(back, 2, "the older application's table is as it was");
}

async fn an_older_table_that_cannot_be_taken_over_is_left_alone(ctx: &mut Context) {
    ctx.without_end_check("the server refuses to start");
    let outside = ctx.outside().await;
    outside
        .sql("CREATE TABLE images (id integer PRIMARY KEY, path text)")
        .await;
    outside.sql("INSERT INTO images VALUES (1, 'a.jpg')").await;
    let output = ctx.try_start().expect_err("the server must not start");
    assert_ne!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("original_url"), "{output:?}");
    assert_eq!(
        outside.sql("UPDATE images SET path = path").await,
        1,
        "untouched"
    );
}
