//! The rules of the protocol that are code, each with a switch: with the feature `seams`,
//! `HAPAX_SEAMS_WITHOUT=R4a,R8` leaves those out, and some test has to notice. Without the feature
//! every rule is in force, and the branches that say otherwise are not compiled.

macro_rules! rules {
    ($( $(#[$what:meta])* $rule:ident = $code:literal, )*) => {
        /// A rule, or one clause of it. The documentation says what holds while it is in force.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(
            not(feature = "seams"),
            allow(dead_code, reason = "some switches are only in code that tests have")
        )]
        pub(crate) enum Rule {
            $( $(#[$what])* $rule, )*
        }

        #[cfg(feature = "seams")]
        const CODES: &[&str] = &[$($code),*];
    };
}

rules! {
    /// The key of a new row holds its generation, not only the content.
    KeyPerGeneration = "R1",
    /// The row that names a key is committed before its first byte is sent.
    IntentBeforePut = "R2",
    /// Counts and images change in one transaction.
    CountWithImage = "R3a",
    /// A webhook's receipt is committed with its effect.
    ReceiptWithEffect = "R3b",
    /// A statement that changed another number of rows than planned undoes the batch.
    AffectedRowsChecked = "R4a",
    /// Unreferenced rows are locked before they are claimed, and claimed only as they were found.
    ClaimUnderLock = "R4b",
    /// Under the lock a second statement asks whether any image points at the row.
    ClaimLooksAgain = "R4c",
    /// The schema allows one stored row of a content.
    OneStoredRow = "R5a",
    /// The schema allows one row of a key.
    OneRowPerKey = "R5b",
    /// The schema's CHECKs.
    CheckedRows = "R5c",
    /// The schema's foreign keys.
    ReferencesExist = "R5d",
    /// The schema allows one receipt of a webhook id.
    OneReceipt = "R5e",
    /// A `deleting` row never becomes anything else.
    DeletingIsTerminal = "R6",
    /// A writer commits only if the row says that it still is the writer's.
    RowDecides = "R7a",
    /// Times are the database's, not the process's.
    DatabaseClock = "R7b",
    /// A row goes only after a DELETE that began past its `put_deadline`.
    RowOutlivesDeadline = "R8a",
    /// A PUT that failed is not tried again under its key.
    OnePutPerKey = "R8b",
    /// A writer whose row is gone inserts it again, as `deleting`.
    LostRowReinserted = "R8c",
    /// A writer whose row is gone does that also where it finds the content stored.
    LostRowBeforeAttach = "R8d",
    /// An object is deleted after the claim of its row is committed.
    ClaimBeforeDelete = "R9a",
    /// An original without references is kept for the grace period.
    GracePeriod = "R9b",
    /// A batch that is run again brings the same image ids.
    SameIdsAgain = "R10a",
    /// Image ids are derived from the `Idempotency-Key`.
    IdsFromKey = "R10b",
    /// A reaper passes rows that somebody else has locked.
    SkipLocked = "R11a",
    /// A key that could not be deleted is left alone for a while.
    BackOff = "R11b",
    /// Rows whose objects are gone go, whatever became of the others in the same call.
    PoisonIsPassed = "R11c",
    /// The scrub lists objects first and reads their rows after that.
    ListThenSelect = "R12a",
    /// What looks missing or stray is looked at again before anything is said or done.
    LookAgain = "R12b",
    /// Many strays at once are not believed.
    StrayLimit = "R12c",
    /// A read that failed says nothing about the object.
    FailedReadIsNoAnswer = "R12d",
    /// Nothing is reaped in a store that is not this database's.
    OwnStoreOnly = "R12e",
    /// The client's leaving does not end what was begun with its whole body.
    WorkOutlivesClient = "R13",
    /// A content is looked for before it is written.
    LookBeforeWriting = "R14",
    /// An answer is given after COMMIT returned.
    AnswerAfterCommit = "R15a",
    /// A declared digest must be that of the bytes.
    DigestVerified = "R15b",
    /// An unknown outcome is 503.
    UnknownIsUnavailable = "R15c",
    /// No transaction is open while the store works.
    NothingOpenAcrossStore = "R16",
    /// A damaged original counts as missing to an upload of its bytes (section 4, heal).
    DamagedIsMissing = "heal",
}

/// Whether the rule is in force.
#[cfg(not(feature = "seams"))]
#[inline(always)]
pub(crate) const fn enforced(_: Rule) -> bool {
    true
}

/// Whether the rule is in force: unless the environment leaves it, or all of its clauses, out.
#[cfg(feature = "seams")]
pub(crate) fn enforced(rule: Rule) -> bool {
    static LEFT_OUT: std::sync::LazyLock<Vec<bool>> = std::sync::LazyLock::new(|| {
        let without = std::env::var("HAPAX_SEAMS_WITHOUT").unwrap_or_default();
        let named = |code: &str| {
            let whole = code.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
            without
                .split(',')
                .any(|name| name == code || (!whole.is_empty() && name == whole))
        };
        CODES.iter().map(|code| named(code)).collect()
    });
    !LEFT_OUT[rule as usize]
}
