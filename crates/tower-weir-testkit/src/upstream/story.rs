use std::{error::Error, fmt, fs, io, time::Duration};

use serde::Deserialize;

use super::phase::{InvalidPhase, Phase};

/// What happens to an upstream: its phases, one after the other. When the last
/// has ended, the upstream is as its builder has it.
///
/// The story begins with the first request, so that a client may take its time
/// to start; if it begins with an outage, it begins at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "File")]
pub struct Story {
    phases: Vec<Phase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    phase: Vec<Phase>,
}

impl Story {
    /// A story of these phases.
    ///
    /// # Errors
    /// When a phase cannot be played: a rate that is none, a phase of no
    /// requests, an outage that is to last a number of requests, or a phase
    /// without an end that is not the last.
    pub fn new(phases: Vec<Phase>) -> Result<Self, InvalidPhase> {
        phases.iter().try_for_each(Phase::check)?;
        let endless = phases.iter().position(|phase| !phase.ends());
        if endless.is_some_and(|at| at + 1 < phases.len()) {
            return Err(InvalidPhase("only the last phase may be without an end"));
        }
        Ok(Self { phases })
    }

    /// Nothing happens.
    pub fn none() -> Self {
        Self::default()
    }

    /// The story of the examples, for an upstream of `slots`: 1.5 s as it is,
    /// 1.5 s with a quarter of its slots, 2 s of outage, then twice its slots
    /// to the end. With 8 slots of 20 ms, 2,000 requests see all of it.
    pub fn default_for(slots: usize) -> Self {
        let long = Duration::from_millis(1500);
        let with = |slots, lasts| Phase {
            slots: Some(slots),
            lasts,
            ..Phase::default()
        };
        Self {
            phases: vec![
                with(slots, Some(long)),
                with((slots / 4).max(1), Some(long)),
                Phase::outage(Duration::from_secs(2)),
                with(2 * slots, None),
            ],
        }
    }

    /// Reads a story from TOML: a `[[phase]]` for each [`Phase`]. A field that
    /// is not known is an error.
    ///
    /// # Errors
    /// When it is not TOML, or not a story.
    pub fn from_toml(text: &str) -> Result<Self, StoryError> {
        toml::from_str(text).map_err(|error| StoryError::Toml(Box::new(error)))
    }

    /// The story called `none` or `default` (for an upstream of `slots`), or
    /// else the one in the TOML file of that name.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no story.
    pub fn open(name: &str, slots: usize) -> Result<Self, StoryError> {
        match name {
            "none" => Ok(Self::none()),
            "default" => Ok(Self::default_for(slots)),
            file => fs::read_to_string(file)
                .map_err(|error| StoryError::Io(file.to_owned(), error))
                .and_then(|text| Self::from_toml(&text)),
        }
    }

    /// Its phases.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub(super) fn into_phases(self) -> Vec<Phase> {
        self.phases
    }
}

impl TryFrom<File> for Story {
    type Error = InvalidPhase;

    fn try_from(file: File) -> Result<Self, InvalidPhase> {
        Self::new(file.phase)
    }
}

/// Why a story cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoryError {
    /// The file of this name cannot be read.
    Io(String, io::Error),
    /// It is not a story; the text says where.
    Toml(Box<toml::de::Error>),
}

impl fmt::Display for StoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(name, error) => write!(f, "the story {name} cannot be read: {error}"),
            Self::Toml(error) => write!(f, "not a story: {error}"),
        }
    }
}

impl Error for StoryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Toml(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tonic::Code;

    use super::*;
    use crate::upstream::{Answer, Refusal, Trouble, TroubleKind};

    #[test]
    fn a_story_is_read_from_toml() {
        let story = Story::from_toml(
            r#"
            [[phase]]
            lasts = "1.5s"
            slots = 8
            refusal = { queue = 3, retry_after = "2s" }
            delay = "5ms"

            [[phase]]
            requests = 10
            troubles = [
                { kind = { answer = { http = 503, grpc = 8, retry_after = "1s" } }, rate = 0.25 },
                { kind = "hang", rate = 0.5 },
            ]

            [[phase]]
            outage = true
            lasts = "2s"

            [[phase]]
            troubles = [{ kind = "close_mid_response" }]
            "#,
        )
        .unwrap();
        let answer = Answer {
            grpc: Some(Code::ResourceExhausted),
            retry_after: Some(Duration::from_secs(1)),
            ..Answer::status(StatusCode::SERVICE_UNAVAILABLE)
        };
        let expected = [
            Phase {
                lasts: Some(Duration::from_millis(1500)),
                slots: Some(8),
                refusal: Some(Refusal {
                    queue: 3,
                    retry_after: Some(Duration::from_secs(2)),
                    ..Refusal::default()
                }),
                delay: Duration::from_millis(5),
                ..Phase::default()
            },
            Phase {
                requests: Some(10),
                troubles: vec![
                    Trouble {
                        kind: TroubleKind::Answer(answer),
                        rate: 0.25,
                    },
                    Trouble {
                        kind: TroubleKind::Hang,
                        rate: 0.5,
                    },
                ],
                ..Phase::default()
            },
            Phase::outage(Duration::from_secs(2)),
            Phase {
                troubles: vec![Trouble::always(TroubleKind::CloseMidResponse)],
                ..Phase::default()
            },
        ];
        assert_eq!(story.phases(), expected);
    }

    #[test]
    fn what_is_no_story_is_refused_with_its_reason() {
        for (text, reason) in [
            ("[[phase]]\nslot = 8", "unknown field `slot`"),
            ("[[phase]]\nlasts = \"soon\"", "expected a duration"),
            ("phases = []", "unknown field `phases`"),
            (
                "[[phase]]\nslots = 1\n[[phase]]\nslots = 2",
                "only the last phase",
            ),
            ("[[phase]]\nrequests = 0", "no requests"),
            ("[[phase]]\noutage = true\nrequests = 1", "end an outage"),
            (
                "[[phase]]\ntroubles = [{ kind = \"hang\", rate = 1.5 }]",
                "from 0 to 1",
            ),
            (
                "[[phase]]\ntroubles = [{ kind = \"hang\", rate = 0.6 }, { kind = \"hang\", rate = 0.6 }]",
                "exceed 1",
            ),
            (
                "[[phase]]\ntroubles = [{ kind = { answer = { http = 100 } } }]",
                "no final HTTP status",
            ),
            (
                "[[phase]]\ntroubles = [{ kind = { answer = { http = 503, grpc = 17 } } }]",
                "no gRPC code",
            ),
        ] {
            let error = Story::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn stories_go_by_name_or_by_file() {
        assert_eq!(Story::open("none", 8).unwrap().phases(), []);
        let default = Story::open("default", 8).unwrap();
        let slots: Vec<_> = default.phases().iter().map(|phase| phase.slots).collect();
        assert_eq!(slots, [Some(8), Some(2), None, Some(16)]);
        assert_eq!(Story::new(default.phases().to_vec()), Ok(default));
        let error = Story::open("no/such/file.toml", 8).unwrap_err();
        assert!(matches!(error, StoryError::Io(..)));
    }
}
