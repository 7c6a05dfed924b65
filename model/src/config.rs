//! What one run of the model contains: its processes, its hazards, and the rule left out, if any.

/// Generations (rows that can ever be) in one run.
pub const MAX_GENERATIONS: usize = 8;
/// Image ids in one run.
pub const MAX_IMAGES: usize = 6;
/// Uploads and deletions in one run.
pub const MAX_PROCESSES: usize = 6;
/// Distinct contents in one run.
pub const MAX_CONTENTS: usize = 2;

/// A rule of the protocol that a run can leave out. Each must then find its counter-example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// R1: a key names a generation. Without: the key is the content's hash.
    KeyPerGeneration,
    /// R2: a committed row names a key before its first byte is sent. Without: PUT first.
    IntentRow,
    /// R3: image row and count change in one transaction. Without: count first, image later.
    OneTransaction,
    /// R4: the reaper claims by one conditional statement. Without: it reads 0, then writes.
    ConditionalClaim,
    /// R4: the count changes by expression. Without: read, then write what was read plus one.
    ConditionalAttach,
    /// R4: the soft delete is conditional. Without: read "live", then delete and decrement.
    ConditionalDelete,
    /// R5: at most one stored row per content. Without the index: look, then promote.
    UniqueStored,
    /// R5: `s3_key` is unique. Without: an abandoned writer re-inserts a key that a heal moved.
    UniqueKey,
    /// R6: `deleting` is terminal. Without: a HEAD that finds the object brings the row back.
    DeletingIsTerminal,
    /// R7: the row decides, not the writer's clock. Without: commit with the state unchecked.
    RowDecides,
    /// R8: no PUT begins past `put_deadline`. Without: a paused writer wakes late, and nobody scrubs.
    PutInTime,
    /// R8: a row goes only after a DELETE that began past `put_deadline`. Without: after any.
    PutDeadline,
    /// R8: one PUT per key. Without: the SDK retries, and an earlier attempt is still on its way.
    OnePut,
    /// R8: a writer that lost its lease re-inserts its row as `deleting`. Without: it goes away.
    Reinsert,
    /// R8: that also where another row stands ready to attach to. Without: it attaches and forgets.
    LostComesFirst,
    /// R9: S3 DELETE only once the claim survives a failover. Without: right after the commit.
    DurableClaim,
    /// R10: the image id outlives an unknown commit. Without: a retry makes a new id.
    StableImageId,
    /// R11: the reaper goes past a key that cannot be deleted. Without: strictly in order.
    PastPoison,
    /// R12: scrub LISTs, then SELECTs. Without: SELECT first.
    ListFirst,
    /// R13: one message per mutation, not dropped by a disconnect. Without: two, and it is.
    OneMessage,
    /// R15: 2xx only after COMMIT. Without: before.
    AckAfterCommit,
    /// R15: only verified bytes. Without: the store takes a damaged body for good.
    VerifiedBytes,
    /// Section 4: all images of a request or none. Without: one transaction per content.
    AllOrNone,
    /// Section 4: a damaged row is no duplicate. Without: an upload attaches to it.
    DamagedIsNoHit,
    /// Section 4: heal exchanges both keys in one transaction. Without: in two.
    HealInOneTransaction,
    /// Section 4: heal leaves the old key to a `deleting` row. Without: nobody keeps it.
    HealKeepsOldKey,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::KeyPerGeneration,
        Self::IntentRow,
        Self::OneTransaction,
        Self::ConditionalClaim,
        Self::ConditionalAttach,
        Self::ConditionalDelete,
        Self::UniqueStored,
        Self::UniqueKey,
        Self::DeletingIsTerminal,
        Self::RowDecides,
        Self::PutInTime,
        Self::PutDeadline,
        Self::OnePut,
        Self::Reinsert,
        Self::LostComesFirst,
        Self::DurableClaim,
        Self::StableImageId,
        Self::PastPoison,
        Self::ListFirst,
        Self::OneMessage,
        Self::AckAfterCommit,
        Self::VerifiedBytes,
        Self::AllOrNone,
        Self::DamagedIsNoHit,
        Self::HealInOneTransaction,
        Self::HealKeepsOldKey,
    ];
}

/// One run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub about: &'static str,
    /// For each upload the contents of its files; images are numbered in this order.
    pub uploads: Vec<Vec<u8>>,
    /// For each deletion the images it names.
    pub deletes: Vec<Vec<u8>>,
    /// Generations that an upload may burn per content.
    pub rounds: u8,
    /// Whether a process may stop for ever between any two steps.
    pub crash: bool,
    /// Whether a paused writer may PUT after its `put_deadline`: what rule R8 forbids, and what the
    /// scrub repairs if it happens nevertheless.
    pub zombie: bool,
    /// Whether the bucket is scrubbed.
    pub scrub: bool,
    /// How often the database may fail over to a replica one transaction behind.
    pub failovers: u8,
    /// How often the store may lose or spoil a stored object by itself.
    pub damages: u8,
    /// A generation whose object the store refuses to delete.
    pub poison: Option<u8>,
    /// The PUT of the first model: an earlier attempt may be in flight after a good answer, and a
    /// commit leaves `put_deadline` alone. The protocol has since forbidden the one and allowed
    /// the other.
    pub first_model_put: bool,
    /// The rule left out.
    pub without: Option<Rule>,
}

impl Config {
    /// A run of uploads of one file of content 0 each and deletions of one image each, with crashes
    /// and no other hazard.
    pub fn new(name: &'static str, uploads: usize, deletes: &[u8]) -> Self {
        Self {
            name,
            about: "",
            uploads: vec![vec![0]; uploads],
            deletes: deletes.iter().map(|image| vec![*image]).collect(),
            rounds: 1,
            crash: true,
            zombie: false,
            scrub: false,
            failovers: 0,
            damages: 0,
            poison: None,
            first_model_put: false,
            without: None,
        }
    }

    /// Without crashes.
    #[must_use]
    pub fn calm(self) -> Self {
        Self {
            crash: false,
            ..self
        }
    }

    /// With so many generations for each content of an upload.
    #[must_use]
    pub fn with_rounds(self, rounds: u8) -> Self {
        Self { rounds, ..self }
    }

    /// With a scrub.
    #[must_use]
    pub fn scrubbed(self) -> Self {
        Self {
            scrub: true,
            ..self
        }
    }

    /// With writers that may wake past their deadline.
    #[must_use]
    pub fn with_late_writers(self) -> Self {
        Self {
            zombie: true,
            ..self
        }
    }

    /// With one failover.
    #[must_use]
    pub fn failing_over(self) -> Self {
        Self {
            failovers: 1,
            ..self
        }
    }

    /// With a store that loses or spoils so many objects by itself.
    #[must_use]
    pub fn decaying(self, damages: u8) -> Self {
        Self { damages, ..self }
    }

    /// With a store that refuses to delete the object of generation 0.
    #[must_use]
    pub fn poisoned(self) -> Self {
        Self {
            poison: Some(0),
            ..self
        }
    }

    /// With the PUT of the first model.
    #[must_use]
    pub fn as_first_modelled(self) -> Self {
        Self {
            first_model_put: true,
            ..self
        }
    }

    /// The same under another name, with a rule left out.
    pub fn without(mut self, name: &'static str, rule: Rule) -> Self {
        self.name = name;
        self.without = Some(rule);
        self
    }

    /// Whether a writer may PUT past its `put_deadline`.
    pub fn puts_late(&self) -> bool {
        self.zombie || !self.has(Rule::PutInTime)
    }

    /// Whether the rule is in force.
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

/// The numbering of images and generations that a [`Config`] implies.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// For each upload its (image, content) pairs.
    pub files: Vec<Vec<(usize, usize)>>,
    /// For each upload its distinct contents.
    pub contents: Vec<Vec<usize>>,
    first_generation: Vec<usize>,
    /// The content of each generation.
    pub content_of: Vec<usize>,
    /// Images of all uploads together.
    pub images: usize,
}

impl Layout {
    /// # Panics
    /// When the run needs more than the fixed arrays of a state hold.
    pub fn of(config: &Config) -> Self {
        let mut layout = Self::default();
        for files in &config.uploads {
            let first = layout.images;
            layout.images += files.len();
            layout.files.push(
                files
                    .iter()
                    .enumerate()
                    .map(|(i, c)| (first + i, *c as usize))
                    .collect(),
            );
            let mut contents: Vec<usize> = files.iter().map(|c| *c as usize).collect();
            contents.sort_unstable();
            contents.dedup();
            layout.first_generation.push(layout.content_of.len());
            for _ in 0..config.rounds {
                layout.content_of.extend(&contents);
            }
            layout.contents.push(contents);
        }
        let processes = config.uploads.len() + config.deletes.len();
        // Without R10 every image has a second id.
        let ids = layout.images
            * if config.has(Rule::StableImageId) {
                1
            } else {
                2
            };
        assert!(processes <= MAX_PROCESSES && layout.content_of.len() <= MAX_GENERATIONS);
        assert!(ids <= MAX_IMAGES);
        assert!(
            layout
                .content_of
                .iter()
                .all(|content| *content < MAX_CONTENTS)
        );
        layout
    }

    /// The generation that `upload` writes for `content` in its round number `round`.
    pub fn generation(&self, upload: usize, round: u8, content: usize) -> usize {
        let contents = &self.contents[upload];
        let rank = contents.iter().take_while(|c| **c != content).count();
        self.first_generation[upload] + round as usize * contents.len() + rank
    }
}
