//! Which tests have to notice which rule's absence.

use Backends::{Both, Postgres};

/// Where a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backends {
    /// A case of `tests/it` on SQLite + folder and on PostgreSQL + S3.
    Both,
    /// A case of `tests/it` on PostgreSQL + S3: SQLite has one server and one writer.
    Postgres,
}

/// Rule, and the tests that notice.
pub(crate) type Row = (&'static str, &'static [(Backends, &'static str)]);

/// One row for each switch of `src/seams/rules.rs`.
pub(crate) const TABLE: &[Row] = &[
    (
        "R1",
        &[(Both, "schedules_of_deletions::late_delete_after_reupload")],
    ),
    (
        "R2",
        &[(Both, "schedules_of_uploads::seed_crash_after_put")],
    ),
    (
        "R3a",
        &[
            (Both, "schedules_of_commits::unknown_commit_attach"),
            (Both, "schedules_of_commits::crash_during_commit"),
        ],
    ),
    (
        "R3b",
        &[(Both, "schedules_of_commits::unknown_commit_of_a_webhook")],
    ),
    (
        "R4a",
        &[(Postgres, "schedules_of_deletions::seed_double_delete")],
    ),
    (
        "R4b",
        &[(
            Postgres,
            "schedules_of_deletions::attach_vs_claim_last_reference",
        )],
    ),
    (
        "R4c",
        &[(
            Both,
            "schedules_of_reapers::a_miscounted_original_is_left_alone",
        )],
    ),
    (
        "R5a",
        &[
            (Both, "schema::a_content_is_stored_once"),
            (Postgres, "schedules_of_uploads::two_nodes_same_new_hash"),
        ],
    ),
    (
        "R5b",
        &[
            (Postgres, "schema::a_key_is_used_once"),
            (Postgres, "schedules_of_scrubs::unknown_heal_commit"),
        ],
    ),
    (
        "R5c",
        &[
            (Postgres, "schema::a_count_is_never_negative"),
            (Postgres, "schema::only_stored_rows_are_counted"),
            (Postgres, "schema::a_deleted_image_points_nowhere"),
        ],
    ),
    (
        "R5d",
        &[
            (Postgres, "schema::a_referenced_original_cannot_go"),
            (
                Postgres,
                "schema::an_image_points_at_an_original_that_exists",
            ),
        ],
    ),
    (
        "R5e",
        &[(Postgres, "schema::a_webhook_id_is_taken_once_per_source")],
    ),
    (
        "R6",
        &[(Both, "schedules_of_deletions::late_delete_after_reupload")],
    ),
    (
        "R7a",
        &[(
            Both,
            "schedules_of_uploads::paused_writer_whose_row_was_condemned",
        )],
    ),
    (
        "R7b",
        &[(
            Postgres,
            "schedules_of_reapers::a_clock_that_is_wrong_condemns_nothing",
        )],
    ),
    (
        "R8a",
        &[(Both, "schedules_of_uploads::late_put_after_delete")],
    ),
    (
        "R8b",
        &[(Both, "schedules_of_uploads::put_refused_every_time")],
    ),
    (
        "R8c",
        &[(Both, "schedules_of_uploads::paused_writer_past_deadline")],
    ),
    (
        "R8d",
        &[(
            Postgres,
            "schedules_of_uploads::paused_writer_finds_the_content_stored",
        )],
    ),
    ("R9a", &[(Both, "schedules_of_deletions::seed_loss")]),
    (
        "R9b",
        &[(
            Both,
            "schedules_of_reapers::grace_period_outlasts_the_reaper",
        )],
    ),
    (
        "R10a",
        &[(Both, "schedules_of_commits::unknown_commit_attach")],
    ),
    (
        "R10b",
        &[(Both, "schedules_of_commits::same_idempotency_key_twice")],
    ),
    (
        "R11a",
        &[(
            Postgres,
            "schedules_of_reapers::a_locked_row_keeps_nobody_waiting",
        )],
    ),
    ("R11b", &[(Both, "schedules_of_reapers::poison_key")]),
    ("R11c", &[(Both, "schedules_of_reapers::poison_key")]),
    (
        "R12a",
        &[(Both, "schedules_of_scrubs::scrub_lists_before_commit")],
    ),
    (
        "R12b",
        &[(Both, "schedules_of_scrubs::scrub_beside_a_deletion")],
    ),
    (
        "R12c",
        &[(Both, "schedules_of_scrubs::many_strays_are_not_believed")],
    ),
    (
        "R12d",
        &[(
            Both,
            "schedules_of_scrubs::a_failed_read_is_not_a_missing_object",
        )],
    ),
    ("R12e", &[(Both, "schedules_of_scrubs::wrong_bucket")]),
    (
        "R13",
        &[(Both, "schedules_of_uploads::disconnect_between_steps")],
    ),
    ("R14", &[(Both, "counting::a_duplicate_upload_is_no_call")]),
    (
        "R15a",
        &[(Both, "schedules_of_commits::no_answer_before_commit")],
    ),
    ("R15b", &[(Both, "uploads::declared_digests_are_verified")]),
    (
        "R15c",
        &[(
            Both,
            "schedules_of_commits::an_outcome_that_stays_unknown_is_503",
        )],
    ),
    (
        "R16",
        &[(
            Both,
            "schedules_of_deletions::nothing_is_open_while_the_store_works",
        )],
    ),
    (
        "heal",
        &[(Both, "schedules_of_scrubs::heal_missing_object")],
    ),
];
