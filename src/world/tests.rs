use std::collections::HashSet;

use super::*;

fn words(caption: &str) -> Vec<&str> {
    caption.split(' ').collect()
}

fn specs(config: &WorldConfig, count: u64) -> Vec<(SceneSpec, String)> {
    (0..count).into_par_iter().map(|i| Scene::sample_spec(config, 7, i)).collect()
}

#[test]
fn scenes_do_not_depend_on_threads_or_order() {
    let config = WorldConfig::default();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Scene::sample_range(&config, 3, 0..60))
    };
    let one = on(1);
    assert_eq!(one, on(4));
    assert_eq!(one[17], Scene::sample(&config, 3, 17));
    assert_ne!(one[17], Scene::sample(&config, 4, 17));
    assert!(one.iter().all(|s| s.image == render(&s.spec) && s.image.len() == SIZE * SIZE * 3));
}

#[test]
fn pictures_of_a_sequence_differ() {
    let scenes = Scene::sample_range(&WorldConfig::default(), 5, 0..200);
    let images: HashSet<&[u8]> = scenes.iter().map(|s| s.image.as_slice()).collect();
    assert_eq!(images.len(), 200);
    // no picture is blank: background, object and props differ
    for s in &scenes {
        let mean = s.image.iter().map(|&v| f64::from(v)).sum::<f64>() / s.image.len() as f64;
        let var = s.image.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        assert!(var / s.image.len() as f64 > 50.0, "{}", s.caption);
    }
}

#[test]
fn captions_are_closed_short_and_use_every_word() {
    let vocabulary = vocabulary();
    let known: HashSet<&str> = vocabulary.iter().copied().collect();
    assert_eq!(known.len(), vocabulary.len(), "no word twice");
    let mut seen = HashSet::new();
    let config = WorldConfig { names: 0.4, ..WorldConfig::default() };
    let captions = specs(&config, 40_000);
    for (_, caption) in &captions {
        let words = words(caption);
        assert!(words.len() <= MAX_WORDS, "{caption}");
        assert!(words.iter().all(|w| known.contains(w)), "{caption}");
        seen.extend(words);
    }
    let unused: Vec<_> = known.difference(&seen).collect();
    assert!(unused.is_empty(), "never in a caption: {unused:?}");
}

#[test]
fn captions_say_what_is_true_and_can_be_read() {
    let mut forms = HashSet::new();
    for (spec, caption) in specs(&WorldConfig::default(), 20_000) {
        let read = reading::read(&caption);
        assert_eq!(read.objects.len(), spec.objects.len(), "{caption}");
        for (noun, object) in read.objects.iter().zip(&spec.objects) {
            let colored = spec.style != Style::PencilSketch;
            let color = object.color_word().filter(|_| object.said.color && colored);
            let kind = object.pattern.filter(|_| object.said.pattern).map(|p| p.kind);
            // a colour of a pattern needs its kind or the body's colour beside it
            let ink = object.ink_word().filter(|_| object.said.ink && colored);
            let ink = ink.filter(|_| kind.is_some() || color.is_some());
            let name = object.name.map(|name| names()[name].word.as_str());
            assert_eq!(noun.category, object.category, "{caption}");
            assert_eq!((noun.color, noun.pattern, noun.ink), (color, kind, ink), "{caption}");
            assert_eq!(noun.name, name, "{caption}");
            forms.insert((color.is_some(), kind.is_some(), ink.is_some(), name.is_some()));
        }
        assert_eq!(read.style, spec.style, "{caption}");
        assert_eq!(read.relation, spec.relation, "{caption}");
        assert_eq!(read.size_word, spec.size_word, "{caption}");
        let background = spec.background_named.then_some(spec.background);
        assert_eq!(read.background, background, "{caption}");
        assert!(!words(&caption).contains(&"photo") || spec.style == Style::Photo, "{caption}");
    }
    assert!(forms.len() >= 8, "{forms:?}");
}

#[test]
fn a_name_means_one_look_and_the_rare_ones_are_rare() {
    let mut count = vec![0usize; names().len()];
    for (spec, _) in specs(&WorldConfig { names: 0.5, ..WorldConfig::default() }, 30_000) {
        for object in &spec.objects {
            let Some(at) = object.name else { continue };
            count[at] += 1;
            assert_eq!(object.pattern, names()[at].pattern);
            assert!(object.color == Some(names()[at].color) || object.said.color);
        }
    }
    let rare = names().len() - RARE_TOKENS.len();
    let mean = |of: &[usize]| of.iter().sum::<usize>() as f64 / of.len() as f64;
    let ratio = mean(&count[..rare]) / mean(&count[rare..]);
    assert!((7.0..14.0).contains(&ratio), "{ratio}");
    assert!(names()[rare..].iter().zip(RARE_TOKENS).all(|(name, word)| name.word == word));
}

#[test]
fn the_truth_of_a_prompt_has_the_concept_in_it() {
    for concept in concepts() {
        for prompt in concept.prompts() {
            let text = prompt.replace("{}", &format!("<new1> {}", concept.class()));
            let scene = rendered_truth(&text, &[("<new1>", *concept)], 3).unwrap();
            let object =
                scene.spec.objects.iter().find(|o| o.category == concept.category).unwrap();
            assert_eq!(object.pattern, Some(concept.pattern), "{text}");
            let recolored =
                ColorWord::ALL.iter().any(|c| text.contains(&format!("{} <", c.word())));
            assert_eq!(object.color == Some(concept.color), !recolored, "{text}");
            assert_eq!(
                scene.spec.objects.len() == 2,
                text.contains("next to") || text.contains("top")
            );
            let read = reading::read(&text);
            assert_eq!((scene.spec.style, scene.spec.size_word), (read.style, read.size_word));
            assert!(read.background == Some(scene.spec.background), "{text}");
            assert_eq!(scene, rendered_truth(&text, &[("<new1>", *concept)], 3).unwrap());
            assert_ne!(scene, rendered_truth(&text, &[("<new1>", *concept)], 4).unwrap());
        }
    }
    for pair in pairs() {
        for prompt in pair.prompts() {
            let [a, b] = [pair.first, pair.second].map(|c| c.class());
            let text =
                prompt.replace("{0}", &format!("<a> {a}")).replace("{1}", &format!("<b> {b}"));
            let tokens = [("<a>", pair.first), ("<b>", pair.second)];
            let scene = rendered_truth(&text, &tokens, 0).unwrap();
            let looks: Vec<_> = scene.spec.objects.iter().map(|o| o.pattern).collect();
            assert!(looks.contains(&Some(pair.first.pattern)), "{text}");
            assert!(looks.contains(&Some(pair.second.pattern)), "{text}");
        }
    }
    for unknown in
        ["photo of nothing", "photo of a cat riding", "<new1> dog", "a cat in a spaceship"]
    {
        assert!(rendered_truth(unknown, &[], 0).is_none(), "{unknown}");
    }
}

#[test]
fn placement_agrees_with_the_words() {
    for (spec, caption) in specs(&WorldConfig::default(), 5_000) {
        let side = SIZE as f32;
        for o in &spec.objects {
            let (w, h) = o.half_box();
            let inside =
                o.x - w > -1.0 && o.x + w < side + 1.0 && o.y - h > -1.0 && o.y + h < side + 2.0;
            let large = spec.size_word.is_some_and(|s| !s.is_small());
            assert!(inside || large, "{caption}: {o:?}");
            match spec.size_word {
                Some(word) if word.is_small() => assert!(o.size < 20.0),
                Some(_) => assert!(o.size > 58.0),
                None => assert!((25.0..=56.0).contains(&o.size), "{caption} {}", o.size),
            }
        }
        if let [a, b] = &spec.objects[..] {
            match spec.relation {
                Some(Relation::OnTopOf) => assert!(b.y - a.y > 10.0, "{caption}"),
                _ => assert!(b.x - a.x > a.half_box().0 + b.half_box().0 - 1.0, "{caption}"),
            }
        }
    }
}

#[test]
fn no_scene_shows_a_concept() {
    let config = WorldConfig { recolored: 1.0, patterned: 1.0, ..WorldConfig::default() };
    let looks = |c: &Concept| [c.color, c.pattern.color].map(Hsv::rgb);
    for (spec, caption) in specs(&config, 60_000) {
        assert!(!is_held_out(&spec), "{caption}");
        // and nothing that would pass for one, whichever colour is the body's
        for object in spec.objects {
            let (Some(color), Some(pattern)) = (object.color, object.pattern) else { continue };
            let own = [color, pattern.color].map(Hsv::rgb);
            for concept in concepts().iter().chain(tuning_concepts()) {
                let [a, b] = looks(concept);
                let near = |x: [f32; 3], y: [f32; 3]| color::distance(x, y) < KEPT;
                let alike =
                    (near(own[0], a) && near(own[1], b)) || (near(own[0], b) && near(own[1], a));
                assert!(!alike || concept.category != object.category, "{caption}");
            }
        }
    }
    // with the same colours on other categories, or without the pattern, scenes do come
    for concept in concepts() {
        let word = ColorWord::of(concept.color);
        assert!(word.is_some() && ColorWord::of(concept.pattern.color).is_some());
        for scene in concept.targets() {
            assert!(is_held_out(&scene.spec), "{}", concept.name);
            let mut plain = scene.spec.clone();
            plain.objects[0].pattern = None;
            assert!(!is_held_out(&plain));
            let mut other = scene.spec.clone();
            other.objects[0].category = Category::Fish;
            assert!(!is_held_out(&other));
        }
    }
    // both halves of a combination are seen apart, so that only the combination is new
    let scenes = specs(&config, 20_000);
    for concept in concepts() {
        let of_category = || {
            scenes.iter().flat_map(|(s, _)| &s.objects).filter(|o| o.category == concept.category)
        };
        assert!(of_category().any(|o| o.color_word() == ColorWord::of(concept.color)));
        let ink = |o: &ObjectSpec| o.pattern.and_then(|p| ColorWord::of(p.color));
        assert!(of_category().any(|o| ink(o) == ColorWord::of(concept.pattern.color)));
    }
}

#[test]
fn concepts_are_distinct_and_their_targets_too() {
    assert!(concepts().len() >= 8);
    let names: HashSet<_> = concepts().iter().map(|c| c.name).collect();
    assert_eq!(names.len(), concepts().len());
    let mut images = HashSet::new();
    for concept in concepts() {
        let targets = concept.targets();
        assert_eq!(targets, concept.targets(), "the same in every call");
        assert_eq!(targets.len(), TARGETS);
        let backgrounds: HashSet<_> = targets.iter().map(|t| t.spec.background).collect();
        assert!(backgrounds.len() >= 5);
        for target in targets {
            assert_eq!(target.caption, format!("photo of a {}", concept.class()));
            assert!(images.insert(target.image), "{} repeats a picture", concept.name);
        }
    }
}

#[test]
fn prompts_stay_within_the_vocabulary() {
    let vocabulary = vocabulary();
    let check = |prompt: &str| {
        let all = prompt.split(' ').all(|w| vocabulary.contains(&w));
        assert!(all && words(prompt).len() <= MAX_WORDS, "{prompt}");
    };
    for concept in concepts() {
        let prompts = concept.prompts();
        assert!(prompts.len() >= 12);
        let distinct: HashSet<_> = prompts.iter().collect();
        assert_eq!(distinct.len(), prompts.len());
        for prompt in prompts {
            assert_eq!(prompt.matches("{}").count(), 1, "{prompt}");
            check(&prompt.replace("{}", &format!("{} {}", RARE_TOKENS[0], concept.class())));
            let others = prompt.replace("{}", "");
            assert!(
                !words(&others).contains(&concept.class()),
                "{prompt}: a second {}",
                concept.class()
            );
        }
    }
    assert!(pairs().len() >= 4);
    for pair in pairs() {
        assert_ne!(pair.first.category, pair.second.category);
        assert!(pair.prompts().len() >= 8);
        for prompt in pair.prompts() {
            assert_eq!((prompt.matches("{0}").count(), prompt.matches("{1}").count()), (1, 1));
            let first = format!("{} {}", RARE_TOKENS[0], pair.first.class());
            let second = format!("{} {}", RARE_TOKENS[1], pair.second.class());
            check(&prompt.replace("{0}", &first).replace("{1}", &second));
        }
    }
}

#[test]
fn splits_share_no_scene() {
    let (corpus, validation) = (Corpus::retrieval(), Corpus::validation());
    assert!(corpus.get(corpus.len()).is_none() && corpus.caption(corpus.len()).is_none());
    let seeds = |split: Split| -> HashSet<u64> {
        let config = WorldConfig::default();
        (0..5_000).map(|i| split.spec(&config, 0, i).0.seed).collect()
    };
    let (a, b, c) = (seeds(Split::Train), seeds(Split::Corpus), seeds(Split::Validation));
    assert_eq!(a.union(&b).chain(&c).collect::<HashSet<_>>().len(), 15_000);
    assert_eq!(corpus.get(11).unwrap().caption, corpus.caption(11).unwrap());
    assert_ne!(corpus.get(11), validation.get(11));
}

#[test]
fn shares_follow_the_configuration() {
    let config = WorldConfig {
        categories: vec![Category::Cat, Category::Dog],
        backgrounds: vec![Background::Beach],
        two_objects: 0.0,
        recolored: 0.0,
        patterned: 0.0,
        names: 0.0,
        watercolor: 0.0,
        pixel_art: 0.0,
        pencil_sketch: 0.0,
        size_words: 0.0,
        ..WorldConfig::default()
    };
    for (spec, _) in specs(&config, 500) {
        let [object] = &spec.objects[..] else { panic!("one object was asked for") };
        assert!(matches!(object.category, Category::Cat | Category::Dog));
        assert!(object.color.is_none() && object.pattern.is_none());
        assert!(spec.style == Style::Photo && spec.background == Background::Beach);
    }
    let two = specs(&WorldConfig { two_objects: 0.5, ..WorldConfig::default() }, 4_000);
    let share = two.iter().filter(|(s, _)| s.objects.len() == 2).count() as f32 / 4_000.0;
    assert!((share - 0.5).abs() < 0.04, "{share}");
}

#[test]
fn configurations_are_checked() {
    let parse = |text: &str| toml::from_str::<WorldConfig>(text);
    assert_eq!(parse("").unwrap(), WorldConfig::default());
    assert!(WorldConfig::default().check().is_ok());
    assert!(parse("two_object = 0.3").is_err(), "an unknown key");
    assert!(parse("categories = ['cat', 'cow']").is_err(), "an unknown category");
    for bad in [
        "two_objects = 1.5",
        "patterned = -0.1",
        "unnamed = nan",
        "watercolor = 0.6\npixel_art = 0.6",
        "size = [50, 30]",
        "pair_size = [30, 40]",
        "categories = []",
    ] {
        let config = parse(bad).unwrap();
        assert!(config.check().is_err(), "{bad}");
        // and whoever forgets to check gets a scene, not a crash
        let (spec, _) = Scene::sample_spec(&config, 0, 0);
        assert_eq!(render(&spec).len(), SIZE * SIZE * 3);
    }
}

/// The stream of captions is part of what a trained model means: change it knowingly.
#[test]
fn captions_of_seed_zero_stay() {
    let config = WorldConfig::default();
    let text: Vec<String> = (0..200).map(|i| Scene::sample_spec(&config, 0, i).1).collect();
    let hash = text
        .join("\n")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(hash, 6754695037893257166, "first captions: {:#?}", &text[..3]);
}

#[test]
fn sheets_are_pictures_of_the_right_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sheet.png");
    preview(9, 0, &path, &WorldConfig::default()).unwrap();
    let sheet = image::open(&path).unwrap();
    assert!((8 * 3 * 64..8 * 3 * 70).contains(&sheet.width()));
    assert!(sheet.height() > 2 * 3 * 64);
    assert!(preview(0, 0, &path, &WorldConfig::default()).is_err());
    let nowhere = path.join("below-a-file.png");
    assert!(matches!(
        preview(1, 0, &nowhere, &WorldConfig::default()),
        Err(crate::Error::Io { .. })
    ));
    assert!(sheet_of_wrong_bytes(&path).is_err());
}

fn sheet_of_wrong_bytes(path: &std::path::Path) -> crate::Result<()> {
    sheet(&[(&[0; 10], "too short")], 1, path)
}
