//! A stage: a pure function of its inputs, whose result is kept under the hash of what it means.

use serde_json::{Value, json};

use super::cell::CellKind;
use super::external::Told;
use super::images::{ClassImages, Images, Side};
use super::key::Key;
use super::resources::Resources;
use super::truth::render;
use crate::Result;
use crate::data::picture_hash;
use crate::methods::{Compression, Known, MergeSettings, Modifier, Settings};
use crate::metrics::Chosen;
use crate::spec::SamplingSpec;

/// What a stage makes; also its folder in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list of pictures of a corpus.
    Retrieval,
    /// What a training or a merge changed.
    Checkpoint,
    /// Images.
    Samples,
    /// Where images attend to words.
    Attention,
    /// Metrics, image by image.
    Scores,
}

impl Kind {
    /// Its folder in the store.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Retrieval => "retrieval",
            Kind::Checkpoint => "checkpoints",
            Kind::Samples => "samples",
            Kind::Attention => "attention",
            Kind::Scores => "scores",
        }
    }
}

/// A node of the plan.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What it makes.
    pub kind: Kind,
    /// For people, and to find what it was before.
    pub name: String,
    /// The hash of `meaning`.
    pub key: Key,
    /// Where its files are: its own key, but for samples, which share the folder of their checkpoint
    /// and sampler, so that a larger scale finds the images of a smaller one.
    pub folder: Key,
    /// Everything that the result depends on.
    pub meaning: Value,
    /// The stages it needs, all before it in the plan.
    pub inputs: Vec<usize>,
    /// What is done.
    pub work: Work,
}

impl Stage {
    /// The stage that does `work`, in a plan that has the stages `before`.
    ///
    /// # Errors
    /// What the work names and the run does not have.
    pub(super) fn new(
        name: String,
        work: Work,
        before: &[Stage],
        resources: &Resources,
    ) -> Result<Self> {
        let mut inputs = vec![];
        // whatever a result depends on by its key is an input, and nothing else is
        let meaning = work.meaning(resources, &mut |at| {
            if !inputs.contains(&at) {
                inputs.push(at);
            }
            before[at].key.clone()
        })?;
        let key = Key::of(&meaning);
        let mut stage =
            Stage { kind: work.kind(), name, folder: key.clone(), key, meaning, inputs, work };
        stage.folder = Key::of(&stage.folder_meaning());
        Ok(stage)
    }

    /// What [`Stage::folder`] is the hash of.
    pub fn folder_meaning(&self) -> Value {
        let mut meaning = self.meaning.clone();
        if let (Kind::Samples, Some(object)) = (self.kind, meaning.as_object_mut()) {
            object.remove(IMAGES);
        }
        meaning
    }
}

/// What a stage does. Numbers are those of stages in the plan.
#[derive(Clone, Debug)]
pub enum Work {
    /// Finds the pictures of a corpus whose captions are nearest to the queries.
    Retrieve {
        /// `mini`, a folder, …
        corpus: String,
        /// The captions asked for.
        queries: Vec<String>,
        /// How many.
        count: usize,
        /// The least similarity.
        threshold: f32,
    },
    /// Takes pictures from all over a corpus.
    Spread {
        /// `mini`, a folder, …
        corpus: String,
        /// How many.
        count: usize,
    },
    /// Trains.
    Train {
        /// The checkpoint it starts from, if not the backbone.
        from: Option<usize>,
        /// Names of the concepts.
        concepts: Vec<String>,
        /// Where each concept's regularisation images are.
        class: Vec<ClassImages>,
        /// The method's options.
        settings: Settings,
        /// Numbers of the modifier tokens.
        tokens: Vec<usize>,
        /// Of noise and batches.
        seed: u64,
    },
    /// Lets a program of others train.
    TrainBy(Told),
    /// Merges checkpoints in closed form.
    Merge {
        /// Checkpoints, one a concept.
        parts: Vec<usize>,
        /// Names of the concepts.
        concepts: Vec<String>,
        /// How each is called.
        modifiers: Vec<Modifier>,
        /// Options.
        settings: MergeSettings,
        /// Where the regularisation captions are from.
        corpus: String,
    },
    /// Takes what a training had after some of its steps.
    State {
        /// The training.
        of: usize,
        /// How many of its steps.
        step: u64,
    },
    /// Leaves of a checkpoint's changes the leading part.
    Compress {
        /// The checkpoint.
        of: usize,
        /// What is left.
        to: Compression,
    },
    /// Takes a checkpoint that is there already.
    Take(Known),
    /// Samples images.
    Sample {
        /// The checkpoint, if not the backbone.
        checkpoint: Option<usize>,
        /// Which images.
        images: Images,
        /// How.
        sampling: SamplingSpec,
        /// The program of others that samples them, if there is one.
        by: Option<Box<Told>>,
    },
    /// Samples images again for where they attend to words.
    Attend {
        /// The checkpoint, if not the backbone.
        checkpoint: Option<usize>,
        /// The prompts, with seeds.
        list: Vec<(String, u64)>,
        /// The words, which are in every prompt.
        words: Vec<String>,
        /// How.
        sampling: SamplingSpec,
    },
    /// Draws prompts with concepts of the embedded world in them.
    Render {
        /// Names of the concepts; their tokens are numbered in this order.
        concepts: Vec<String>,
        /// The prompts, with seeds.
        list: Vec<(String, u64)>,
    },
    /// Measures a cell.
    Score(ScoreWork),
}

/// In the meaning of samples: which images, the part that does not choose their folder.
const IMAGES: &str = "images";
/// How scores are made; another number makes all of them again.
const SCORES_VERSION: u32 = 3;

impl Work {
    fn kind(&self) -> Kind {
        match self {
            Work::Retrieve { .. } | Work::Spread { .. } => Kind::Retrieval,
            Work::Train { .. }
            | Work::TrainBy(_)
            | Work::Merge { .. }
            | Work::State { .. }
            | Work::Compress { .. }
            | Work::Take(_) => Kind::Checkpoint,
            Work::Sample { .. } | Work::Render { .. } => Kind::Samples,
            Work::Attend { .. } => Kind::Attention,
            Work::Score(_) => Kind::Scores,
        }
    }

    /// Everything that the result depends on: files by their contents, other stages by the keys that
    /// `key` gives for their numbers, settings by their values; no names. Each kind of work is taken
    /// apart without `..`, so that no field can be added without a word here on what it means.
    fn meaning(&self, resources: &Resources, key: &mut dyn FnMut(usize) -> Key) -> Result<Value> {
        Ok(match self {
            Work::Retrieve { corpus, queries, count, threshold } => json!({
                "retrieval": 1,
                "corpus": resources.corpus(corpus)?.identity(),
                "embedder": resources.embedder()?.identity(),
                "queries": queries,
                "count": count,
                "threshold": threshold,
            }),
            Work::Spread { corpus, count } => json!({
                "spread": 1,
                "corpus": resources.corpus(corpus)?.identity(),
                "count": count,
            }),
            Work::Train { from, concepts, class, settings, tokens, seed } => {
                let from = from.map(&mut *key);
                let mut subjects = vec![];
                for (name, class) in concepts.iter().zip(class) {
                    let concept = resources.concept(name)?;
                    let class = match class {
                        ClassImages::None => None,
                        // their key says which images they are
                        ClassImages::Real(at) | ClassImages::Generated(at, _) => Some(key(*at)),
                    };
                    subjects.push(json!({
                        "category": concept.category,
                        "targets": concept.target_hashes(),
                        "class": class,
                    }));
                }
                json!({
                    "train": 1,
                    "backbone": resources.backbone_identity(),
                    "from": from,
                    "concepts": subjects,
                    "settings": settings,
                    "tokens": tokens,
                    "seed": seed,
                })
            }
            Work::TrainBy(told) => json!({
                "train_by": 1,
                "backbone": resources.backbone_identity(),
                "size": resources.size(),
                "program": told.meaning(told.external.train.as_ref(), resources)?,
            }),
            Work::Merge { parts, concepts, modifiers, settings, corpus } => {
                let mut categories = vec![];
                for name in concepts {
                    categories.push(&resources.concept(name)?.category);
                }
                json!({
                    "merge": 1,
                    "parts": parts.iter().map(|&at| key(at)).collect::<Vec<_>>(),
                    "categories": categories,
                    "modifiers": modifiers,
                    "settings": settings,
                    "corpus": resources.corpus(corpus)?.identity(),
                })
            }
            Work::State { of, step } => json!({ "state": 1, "of": key(*of), "step": step }),
            Work::Compress { of, to } => json!({
                "compressed": 2,
                "backbone": resources.backbone_identity(),
                "of": key(*of),
                "to": to,
            }),
            Work::Take(known) => {
                // the hash is of all that it holds
                let Known { path: _, hash, weights: _, tokens: _, said: _ } = known;
                json!({ "checkpoint": 1, "hash": hash })
            }
            Work::Sample { checkpoint, images, sampling, by } => {
                let mut meaning = json!({
                    "samples": 1,
                    "backbone": resources.backbone_identity(),
                    "size": resources.size(),
                    "checkpoint": checkpoint.map(&mut *key),
                    "sampling": sampling,
                    IMAGES: images.meaning(key),
                });
                if let Some(told) = by {
                    meaning["by"] = told.meaning(told.external.sample.as_ref(), resources)?;
                }
                meaning
            }
            Work::Attend { checkpoint, list, words, sampling } => json!({
                "attention": 1,
                "backbone": resources.backbone_identity(),
                "size": resources.size(),
                "checkpoint": checkpoint.map(&mut *key),
                "sampling": sampling,
                "list": list,
                "words": words,
            }),
            Work::Render { concepts, list } => {
                let mut all = vec![];
                for name in concepts {
                    all.push(resources.concept(name)?.target_hashes());
                }
                // a change of the renderer makes other pictures
                let first = list.first().map(|(prompt, seed)| {
                    render(resources, concepts, prompt, *seed).map(|image| picture_hash(&image))
                });
                json!({ "render": 1, "concepts": all, "list": list, "first": first.transpose()? })
            }
            Work::Score(work) => {
                let ScoreWork {
                    metrics,
                    kind,
                    concepts,
                    samples,
                    texts,
                    groups,
                    real,
                    general,
                    class_words,
                    unrelated,
                    checkpoint,
                    attention,
                } = work;
                let mut all = vec![];
                for name in concepts {
                    all.push(resources.concept(name)?.target_hashes());
                }
                // the keys of samples say which images they are
                let mut of = |samples: &Option<(usize, Images)>| samples.as_ref().map(|s| key(s.0));
                let samples = of(samples);
                let class_words = of(class_words);
                let unrelated = unrelated.as_ref().map(|[own, plain]| [key(own.0), key(plain.0)]);
                let mut sides = |sides: &Option<(Side, usize)>| {
                    sides.as_ref().map(|(side, real)| match side {
                        Side::Samples(at, _) | Side::Real(at) => json!([key(*at), key(*real)]),
                        Side::Targets => json!(["targets", key(*real)]),
                    })
                };
                let (real, general) = (sides(real), sides(general));
                json!({
                    "scores": SCORES_VERSION,
                    "kind": kind.as_str(),
                    "metrics": resources.meaning_of(metrics)?,
                    "samples": samples,
                    "texts": texts,
                    "groups": groups,
                    "targets": all,
                    "real": real,
                    "general": general,
                    "class_words": class_words,
                    "unrelated": unrelated,
                    "checkpoint": checkpoint.map(&mut *key),
                    "attention": attention.map(&mut *key),
                })
            }
        })
    }
}

/// What is measured, and against what.
#[derive(Clone, Debug)]
pub struct ScoreWork {
    /// The metrics.
    pub metrics: Vec<Chosen>,
    /// Whose images.
    pub kind: CellKind,
    /// The concepts.
    pub concepts: Vec<String>,
    /// The images of the evaluation prompts, but for anchors of real images.
    pub samples: Option<(usize, Images)>,
    /// The prompts without modifier tokens, as CLIP sees them.
    pub texts: Vec<String>,
    /// Of which prompt each image is.
    pub groups: Vec<usize>,
    /// What is compared with real images of the category, and the stage that found those.
    pub real: Option<(Side, usize)>,
    /// The same with real images of everything.
    pub general: Option<(Side, usize)>,
    /// The images of evaluation prompts, from the first, with the bare categories in them.
    pub class_words: Option<(usize, Images)>,
    /// Images of unrelated captions, and the pretrained model's of the same.
    pub unrelated: Option<[(usize, Images); 2]>,
    /// The stage of the checkpoint, where its weights are measured.
    pub checkpoint: Option<usize>,
    /// The stage of where the images of the evaluation prompts attend to the concepts' words.
    pub attention: Option<usize>,
}
