//! From a recipe to the stages that follow it.

use super::{Planner, RowPlan, Sampler, Subject, scaled};
use crate::Result;
use crate::data::Concept;
use crate::engine::external::Told;
use crate::engine::images::{ClassImages, GENERATED_SEEDS, Images};
use crate::engine::stage::Work;
use crate::methods::{
    Known, Method, Recipe, Regularization, Settings, class_prompt, modifier_of_row,
};
use crate::spec::GroupName;

impl Planner<'_> {
    /// The stage that makes what `recipe` says; none for the backbone as it is.
    pub(super) fn checkpoint(&mut self, label: &str, recipe: &Recipe) -> Result<Option<usize>> {
        match recipe {
            Recipe::Pretrained => Ok(None),
            Recipe::Train { from, concepts, settings, seed, tokens } => {
                let from = self.checkpoint(label, from)?;
                let mut class = vec![];
                for name in concepts {
                    let category = self.resources.concept(name)?.category.clone();
                    class.push(self.class_images(&category, settings)?);
                }
                let name = format!("train {label} · {} · seed {seed}", concepts.join(" + "));
                let work = Work::Train {
                    from,
                    concepts: concepts.clone(),
                    class,
                    settings: settings.clone(),
                    tokens: tokens.clone(),
                    seed: *seed,
                };
                Ok(Some(self.add(name, work)?))
            }
            Recipe::External { external, concepts, .. } => {
                let (Some(told), true) = (told(recipe), external.train.is_some()) else {
                    return Ok(None);
                };
                let name = format!("train {label} · {} · seed {}", concepts.join(" + "), told.seed);
                Ok(Some(self.add(name, Work::TrainBy(told))?))
            }
            Recipe::Merge { parts: recipes, settings } => {
                let mut parts = vec![];
                let mut concepts = vec![];
                for part in recipes {
                    parts.extend(self.checkpoint(label, part)?);
                    concepts.extend(part.concepts().into_iter().map(str::to_owned));
                }
                let corpus = self.experiment.regularization.corpus.clone();
                let modifiers = recipe.modifiers().into_iter().map(|(m, _)| m).collect();
                let name = format!("merge {label} · {}", concepts.join(" + "));
                let settings = settings.clone();
                let work = Work::Merge { parts, concepts, modifiers, settings, corpus };
                Ok(Some(self.add(name, work)?))
            }
            Recipe::State { of, step } => {
                let concepts = of.concepts().join(" + ");
                let Some(at) = self.checkpoint(label, of)? else { return Ok(None) };
                let name = format!("state {label} · {concepts} · step {step}");
                Ok(Some(self.add(name, Work::State { of: at, step: *step })?))
            }
            Recipe::Compressed { of, to } => {
                let concepts = of.concepts().join(" + ");
                let Some(at) = self.checkpoint(label, of)? else { return Ok(None) };
                let name = format!("compress {label} · {concepts} · {to}");
                Ok(Some(self.add(name, Work::Compress { of: at, to: *to })?))
            }
            Recipe::File { file, concepts, phrases } => {
                let called = concepts.iter().zip(phrases).map(|(c, p)| format!("{c} as {p}"));
                let called: Vec<String> = called.collect();
                let name = format!("take {label} · {}", called.join(" + "));
                Ok(Some(self.add(name, Work::Take(file.clone()))?))
            }
        }
    }

    /// What a row that names a checkpoint's file is for a subject; none for other rows.
    pub(super) fn of_file(
        &mut self,
        row: &RowPlan,
        subject: &Subject,
        concepts: &[&Concept],
        seed: u64,
    ) -> Result<Option<Recipe>> {
        let Some((own, path)) =
            row.point.as_ref().and_then(|p| Some((&p.row, p.row.path.as_ref()?)))
        else {
            return Ok(None);
        };
        let path = path.replace("{concept}", &subject.name).replace("{seed}", &seed.to_string());
        let path = self.resources.path(&path);
        if !self.files.contains_key(&path) {
            self.files.insert(path.clone(), Known::read(&path)?);
        }
        let file = self.files[&path].clone();
        let named: Vec<(&str, &str)> =
            concepts.iter().map(|c| (c.name.as_str(), c.category.as_str())).collect();
        let phrases = file.phrases(&named, modifier_of_row(&own.settings)?)?;
        Ok(Some(Recipe::File { file, concepts: subject.concepts.clone(), phrases }))
    }

    fn class_images(&mut self, category: &str, settings: &Settings) -> Result<ClassImages> {
        let count = settings.class_images;
        Ok(match settings.regularization {
            Regularization::None => ClassImages::None,
            Regularization::Real => {
                let corpus = self.experiment.regularization.corpus.clone();
                let threshold = self.resources.threshold();
                ClassImages::Real(self.retrieval(&corpus, category, count, threshold)?)
            }
            Regularization::Generated => {
                let prompt = class_prompt(category);
                // seeds of their own: evaluation images must not be among the training images
                let seeds = (0..count).map(|i| (prompt.clone(), GENERATED_SEEDS + i as u64));
                let images = Images::Listed(seeds.collect());
                let name = format!("sample {count} × {prompt}");
                let sampling = self.scale.sampling(&self.experiment.sampling, GroupName::Single);
                let backbone = Sampler::default();
                ClassImages::Generated(self.samples(name, &backbone, &images, &sampling)?, images)
            }
        })
    }

    pub(super) fn settings(
        &self,
        method: &dyn Method,
        row: &RowPlan,
        concepts: usize,
    ) -> Result<Settings> {
        let none = toml::Table::new();
        let given = row.point.as_ref().map_or(&none, |p| &p.row.settings);
        let mut settings = method.defaults(self.resources.profile(), concepts).with(given)?;
        settings.steps = scaled(settings.steps, self.scale);
        Ok(settings)
    }
}

/// What programs of others are told, where a recipe is of theirs.
pub(super) fn told(recipe: &Recipe) -> Option<Told> {
    let Recipe::External { concepts, external, seed, tokens } = recipe else { return None };
    let (external, concepts) = ((**external).clone(), concepts.clone());
    Some(Told { external, concepts, tokens: tokens.clone(), seed: *seed })
}
