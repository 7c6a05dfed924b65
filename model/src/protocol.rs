//! The transition system, as the checker sees it.

use stateright::{Model, Property};

use crate::config::{Config, Layout, Rule};
use crate::properties;
use crate::state::{State, Step, Who};

/// One [`Config`] of the protocol.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// What is in it.
    pub config: Config,
    /// Its numbering.
    pub layout: Layout,
}

impl Protocol {
    /// # Panics
    /// When the run needs more than the fixed arrays of a state hold.
    pub fn new(config: Config) -> Self {
        let layout = Layout::of(&config);
        Self { config, layout }
    }

    /// A committed transaction; an asynchronous replica keeps what was before it.
    pub(crate) fn transaction(&self, state: &State, apply: impl FnOnce(&mut State)) -> State {
        let mut next = *state;
        apply(&mut next);
        if self.config.failovers > 0 && next.db != state.db {
            next.replica = state.db;
        }
        next
    }

    /// Whether no upload still counts on a generation.
    fn is_nobodys(&self, state: &State, generation: usize) -> bool {
        (0..self.config.uploads.len()).all(|upload| {
            let process = &state.processes[upload];
            self.layout.contents[upload].iter().all(|content| {
                process.own[*content].checked_sub(1).is_none_or(|round| {
                    self.layout.generation(upload, round, *content) != generation
                })
            })
        })
    }
}

/// Collects the steps out of one state.
pub(crate) struct Steps<'a> {
    protocol: &'a Protocol,
    from: &'a State,
    out: &'a mut Vec<Step>,
}

impl Steps<'_> {
    /// A step that brings the world towards rest.
    pub(crate) fn progress(&mut self, who: Who, what: &'static str, about: u8, next: State) {
        self.push(who, what, about, true, next);
    }

    /// A step that nobody can count on.
    pub(crate) fn hazard(&mut self, who: Who, what: &'static str, about: u8, next: State) {
        self.push(who, what, about, false, next);
    }

    pub(crate) fn push(
        &mut self,
        who: Who,
        what: &'static str,
        about: u8,
        progress: bool,
        mut next: State,
    ) {
        let protocol = self.protocol;
        let snapshot = next;
        next.normalise(|generation| protocol.is_nobodys(&snapshot, generation));
        if next != *self.from {
            self.out.push(Step {
                who,
                what,
                about,
                progress,
                next,
            });
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let Config {
            failovers, damages, ..
        } = self.config;
        vec![State {
            failovers,
            damages,
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, out: &mut Vec<Step>) {
        let mut steps = Steps {
            protocol: self,
            from: state,
            out,
        };
        for upload in 0..self.config.uploads.len() {
            self.upload_steps(state, upload, &mut steps);
        }
        for deletion in 0..self.config.deletes.len() {
            self.delete_steps(state, deletion, &mut steps);
        }
        self.environment_steps(state, &mut steps);
        self.reaper_steps(state, &mut steps);
        self.scrub_steps(state, &mut steps);
    }

    fn next_state(&self, _: &State, step: Step) -> Option<State> {
        Some(step.next)
    }

    fn format_action(&self, step: &Step) -> String {
        step.to_string()
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Protocol {
    /// Whether every object has a row at every moment (I2), and not only at rest: so it is unless a
    /// paused writer or a failover may leave an object behind for the scrub.
    pub(crate) fn rows_come_first(&self) -> bool {
        !self.config.puts_late() && self.config.failovers == 0 && self.config.has(Rule::PutDeadline)
    }
}
