use candle_core::{DType, Device};

use super::*;
use crate::diffusion::Backbone;
use crate::methods::Compression;
use crate::rng::Rng;

const LAYER: &str = "mid_block.attentions.0.transformer_blocks.0";

/// Two layers a block, as CompVis's names count them.
fn backbone() -> Backbone {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sd2");
    Backbone::load(folder, &Device::Cpu, DType::F32).unwrap()
}

fn random(rng: &mut Rng, shape: &[usize]) -> Tensor {
    (rng.normal(shape, &Device::Cpu).unwrap() * 0.1).unwrap()
}

/// Random values for the UNet's weights of which a part is in the name, and these tokens.
fn delta(backbone: &Backbone, parts: &[&str], tokens: &[(&str, usize)]) -> Delta {
    let mut rng = Rng::new(7, "delta");
    let own = backbone.unet.params().iter();
    let own = own.filter(|p| parts.iter().any(|part| p.name().contains(part)));
    let tensors: Vec<(String, Tensor)> =
        own.map(|p| (format!("unet.{}", p.name()), random(&mut rng, p.shape()))).collect();
    let rows = tokens.iter().map(|(t, n)| (t.to_string(), random(&mut rng, &[*n, 64])));
    let tokens = rows.collect();
    Delta::new(tensors.into_iter().collect(), tokens)
}

/// Random factors of changes of these weights.
fn lora(backbone: &Backbone, names: &[&str]) -> Delta {
    let mut rng = Rng::new(8, "lora");
    let factors = names.iter().map(|name| {
        let shape = super::super::delta::parameter(backbone, name).unwrap().shape().to_vec();
        let v = random(&mut rng, &[&[3], &shape[1..]].concat());
        (name.to_string(), Factors::new(random(&mut rng, &[shape[0], 3]), v).unwrap())
    });
    Delta::default().with_factors(factors.collect())
}

/// How far two changes are from each other, of their own size, with all weights as they become.
fn distance(one: &Delta, other: &Delta, backbone: &Backbone) -> f64 {
    let [one, other] = [one, other].map(|delta| delta.clone().whole(backbone).unwrap());
    assert!(one.tensors.keys().eq(other.tensors.keys()));
    assert_eq!(one.token_names(), other.token_names());
    let tokens = |delta: &Delta| delta.tokens.iter().map(|(_, t)| t.clone()).collect::<Vec<_>>();
    let pairs = one.tensors.values().cloned().zip(other.tensors.values().cloned());
    let sum = |t: Tensor| -> f64 {
        t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().into()
    };
    let (mut off, mut all) = (0.0, 0.0);
    for (a, b) in pairs.chain(tokens(&one).into_iter().zip(tokens(&other))) {
        assert_eq!(a.dims(), b.dims());
        off += sum((&a - b).unwrap());
        all += sum(a);
    }
    (off / all).sqrt()
}

fn target(name: &str) -> &'static Target {
    name.parse().unwrap()
}

fn refused<T>(result: Result<T>) -> String {
    let error = result.err().expect("refused");
    assert_eq!(error.exit_code(), 3, "{error}");
    format!("{error} {}", error.hint().unwrap_or_default())
}

/// Converts, writes, and reads again.
fn round(delta: &Delta, to: &str, backbone: &Backbone, out: &str) -> (Delta, Option<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let rank = Some(Compression::Rank(usize::MAX));
    let converted = convert(delta, target(to), Some(backbone), rank).unwrap();
    let out = dir.path().join(out);
    converted.save(&converted.paths(&out).unwrap()).unwrap();
    (Delta::load(&out).unwrap(), converted.kept)
}

#[test]
fn every_dialect_reads_what_it_wrote() {
    let backbone = backbone();
    let kv = ["attn2.to_k", "attn2.to_v"];
    let cross = [&kv[..], &["attn2.to_q", "attn2.to_out"]].concat();
    let one = &[("<new1>", 1), ("<new2>", 1)][..];
    let two = &[("<new1>", 3), ("<dog-toy>", 1)][..];
    for (to, parts, tokens, out) in [
        ("cdbench", &["."][..], two, "x"),
        ("diffusers", &kv, two, "x"),
        ("diffusers", &cross, &[], "x.safetensors"),
        ("authors", &kv, one, "x.bin"),
        ("authors", &cross, &[("<dog-toy>", 1)], "x"),
        ("authors-compressed", &cross, one, "x.bin"),
        ("compvis", &kv, one, "x.ckpt"),
        ("lora", &kv, two, "x"),
        ("kohya", &["to_q.weight", "conv1.weight", "proj_in.weight"], two, "x"),
        ("textual-inversion", &[], two, "x"),
        ("textual-inversion", &[], &two[..1], "x.safetensors"),
        ("a1111", &[], two, "x"),
    ] {
        let delta = delta(&backbone, parts, tokens);
        let (back, kept) = round(&delta, to, &backbone, out);
        let error = distance(&delta, &back, &backbone);
        assert!(error < 1e-5, "{to}: {error}");
        assert_eq!(kept.is_some(), ["authors-compressed", "lora", "kohya"].contains(&to), "{to}");
        assert!(kept.is_none_or(|share| (share - 1.0).abs() < 1e-6), "{to}: {kept:?}");
    }
}

#[test]
fn factors_stay_factors_where_they_can() {
    let backbone = backbone();
    let text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight";
    let names = [
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0.weight",
        "unet.down_blocks.1.resnets.0.conv1.weight",
        text,
    ];
    let delta = lora(&backbone, &names);
    for to in ["lora", "kohya", "cdbench"] {
        let (back, kept) = round(&delta, to, &backbone, "x");
        assert_eq!(back.hash().unwrap(), delta.hash().unwrap(), "{to}");
        assert_eq!(kept, None);
    }
    let keys =
        lora(&backbone, &["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]);
    let (whole, _) = round(&keys, "authors", &backbone, "x.bin");
    assert!(whole.factors.is_empty() && distance(&keys, &whole, &backbone) < 1e-5);
}

#[test]
fn what_a_dialect_has_no_place_for_is_said_with_those_that_do() {
    let backbone = backbone();
    let all = |delta: &Delta, to| {
        refused(convert(delta, target(to), Some(&backbone), Some(Compression::Rank(2))))
    };
    let of = |parts: &[&str], tokens: &[(&str, usize)]| delta(&backbone, parts, tokens);
    let wide = of(&["conv_in"], &[]);
    let said = all(&wide, "authors");
    assert!(said.contains("`unet.conv_in.bias` and 1 more") && said.contains("cdbench"), "{said}");
    assert!(!said.contains("diffusers"), "{said}");
    let several = of(&["attn2.to_k"], &[("<new1>", 2)]);
    for to in ["authors", "compvis", "authors-compressed"] {
        let said = all(&several, to);
        assert!(said.contains("`<new1>`") && said.contains("diffusers, lora, kohya"), "{said}");
    }
    assert!(all(&of(&[], &[("<dog>", 1)]), "compvis").contains("`<dog>`"));
    assert!(all(&of(&["attn2.to_k"], &[]), "a1111").contains("attn2.to_k.weight`"));
    assert!(all(&of(&["attn1.to_q", "norm1.weight"], &[]), "lora").contains("is a vector"));
    assert!(all(&of(&["attn2.to_k"], &[]), "diffusers").contains("attn2.to_v.weight"));
    let second = delta(&backbone, &["attn2.to_k"], &[("<new2>", 1)]);
    assert!(all(&second, "compvis").contains("would be read as `<new1>`"));

    let keys = of(&["attn2.to_k", "attn2.to_v"], &[]);
    let said = refused(convert(&keys, target("lora"), None, None));
    assert!(said.contains("--backbone") && said.contains("--rank"), "{said}");
    let name = format!("unet.{LAYER}.attn2.to_k.weight");
    let factors = lora(&backbone, &[&name]);
    assert!(refused(convert(&factors, target("authors"), None, None)).contains("--backbone"));
    assert!("autors".parse::<&Target>().err().unwrap().contains("authors"));
}

#[test]
fn a_file_is_named_as_its_dialect_does_and_holds_all() {
    let backbone = backbone();
    let own = delta(&backbone, &["attn2.to_k", "attn2.to_v"], &[("<new1>", 1)]);
    let paths =
        |to, out: &str| convert(&own, target(to), None, None).unwrap().paths(Path::new(out));
    assert_eq!(paths("authors", "a/b.bin").unwrap(), [Path::new("a/b.bin")]);
    assert_eq!(paths("authors", "a/b").unwrap(), [Path::new("a/b/delta.bin")]);
    let said = refused(paths("authors", "b.safetensors"));
    assert!(said.contains("end in .bin"), "{said}");
    let said = refused(paths("diffusers", "b.safetensors"));
    assert!(said.contains("a folder's files") && said.contains("<new1>.safetensors"), "{said}");
}

#[test]
fn self_attention_has_an_entry_and_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    let weight = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
    let names = ["to_k", "to_v"].map(|w| format!("unet.{LAYER}.attn2.{w}.weight"));
    let delta = Delta::new(names.map(|name| (name, weight.clone())).into(), vec![]);
    delta.save(dir.path()).unwrap();
    let file = dir.path().join("pytorch_custom_diffusion_weights.safetensors");
    let weights = Weights::open_file(&file).unwrap();
    let keys: Vec<&str> = weights.keys().collect();
    assert_eq!(keys[0], format!("{LAYER}.attn1.processor"));
    assert_eq!((keys.len(), weights.shape(keys[0])), (3, Some(vec![0])));
    assert_eq!(Delta::load(dir.path()).unwrap().hash().unwrap(), delta.hash().unwrap());
}

/// A safetensors file of ones.
fn ones(path: &Path, tensors: &[(&str, &[usize])]) {
    let tensors = tensors.iter().map(|(key, shape)| {
        (key.to_string(), Tensor::ones(*shape, DType::F32, &Device::Cpu).unwrap(), DType::F32)
    });
    save_weights(path, tensors).unwrap();
}

/// What is read of such a file.
fn of_ones(tensors: &[(&str, &[usize])]) -> Result<Delta> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    ones(&path, tensors);
    Delta::load(&path)
}

fn names(delta: &Delta) -> Vec<&str> {
    delta.tokens().iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn textual_inversions_of_others_are_called_after_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, key: &str, rows: usize| {
        ones(&dir.path().join(name), &[(key, &[rows, 2])]);
        dir.path().join(name)
    };
    write("my-cat.safetensors", "emb_params", 1);
    write("猫.safetensors", "string_to_param.*", 4);
    write("learned_embeds.safetensors", "<dog-toy>", 1);
    write("<new1>.safetensors", "<new1>", 1);
    // what trainers and systems leave beside them
    for name in ["optimizer.bin", "random_states_0.pkl", "scheduler.bin", "._a.safetensors"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let delta = Delta::load(dir.path()).unwrap();
    assert_eq!(names(&delta), ["<new1>", "<dog-toy>", "my-cat", "猫"]);
    assert_eq!(delta.tokens()[3].1.dims(), [4, 2]);
    let alone = Delta::load(&dir.path().join("my-cat.safetensors")).unwrap();
    assert_eq!(alone.tokens()[0].0, "my-cat");
    assert!(refused(Delta::load(&write("many.safetensors", "emb_params", 76))).contains("[76, 2]"));
    fs::write(dir.path().join("delta.bin"), "x").unwrap();
    assert!(refused(Delta::load(dir.path())).contains("delta.bin"));
}

/// A dictionary of ones, and of others.
fn dict(items: &[(&str, &[usize])], inner: Vec<(&str, Pickled)>) -> Pickled {
    let ones = items.iter().map(|(key, shape)| {
        let tensor = Tensor::ones(*shape, DType::F32, &Device::Cpu).unwrap();
        (key.to_string(), Pickled::Tensor(tensor))
    });
    let inner = inner.into_iter().map(|(key, value)| (key.to_owned(), value));
    Pickled::Dict(ones.chain(inner).collect())
}

fn of_pickle(name: &str, content: &Pickled) -> Result<Delta> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    save_pickle(&path, content).unwrap();
    Delta::load(&path)
}

#[test]
fn pickles_of_the_authors_are_read() {
    let key = format!("{LAYER}.attn2.to_k.weight");
    let value = format!("{LAYER}.attn2.to_v.weight");
    let table = "text_model.embeddings.token_embedding.weight";
    let own = dict(
        &[],
        vec![
            (
                "unet",
                dict(
                    &[(&value, &[2, 3])],
                    vec![(&key, dict(&[("u", &[2, 1]), ("v", &[1, 3])], vec![]))],
                ),
            ),
            ("modifier_token", dict(&[("<new1>", &[4]), ("<new2>", &[4])], vec![])),
            // with the tokens' rows at its end
            ("text_encoder", dict(&[(table, &[9, 4])], vec![])),
            ("step", Pickled::Int(250)),
        ],
    );
    let delta = of_pickle("delta.bin", &own).unwrap();
    assert_eq!(names(&delta), ["<new1>", "<new2>"]);
    assert_eq!(delta.tokens()[1].1.dims(), [1, 4]);
    assert_eq!(delta.tensors[&format!("text_encoder.{table}")].dims(), [7, 4]);
    assert_eq!(delta.tensors[&format!("unet.{value}")].dims(), [2, 3]);
    assert_eq!(delta.factors[&format!("unet.{key}")].rank(), 1);

    let block = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2";
    let (key, value) = (format!("{block}.to_k.weight"), format!("{block}.to_v.weight"));
    let factors = dict(&[("u", &[2, 1]), ("v", &[1, 3])], vec![]);
    let state = dict(&[(&value, &[2, 3]), ("embed", &[2, 4])], vec![(&key, factors)]);
    let delta = of_pickle("delta_epoch=4.ckpt", &dict(&[], vec![("state_dict", state)])).unwrap();
    assert_eq!(names(&delta), ["<new1>", "<new2>"]);
    let layer = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2";
    assert_eq!(delta.tensors.keys().collect::<Vec<_>>(), [&format!("{layer}.to_v.weight")]);
    assert_eq!(delta.factors.keys().collect::<Vec<_>>(), [&format!("{layer}.to_k.weight")]);

    let whole = dict(&[("first_stage_model.x", &[1])], vec![]);
    let said = refused(of_pickle("a.ckpt", &dict(&[], vec![("state_dict", whole)])));
    assert!(said.contains("whole model") && said.contains("--backbone"), "{said}");
}

#[test]
fn pickles_of_diffusers_are_read() {
    let layer = format!("{LAYER}.attn2.processor");
    let (key, bias) = (
        format!("{layer}.to_k_custom_diffusion.weight"),
        format!("{layer}.to_k_custom_diffusion.bias"),
    );
    let mut own =
        dict(&[(&key, &[2, 3])], vec![(&format!("{LAYER}.attn1.processor"), dict(&[], vec![]))]);
    let delta = of_pickle("pytorch_custom_diffusion_weights.bin", &own).unwrap();
    assert_eq!(
        delta.tensors.keys().collect::<Vec<_>>(),
        [&format!("unet.{LAYER}.attn2.to_k.weight")]
    );
    if let Pickled::Dict(items) = &mut own {
        let zeros = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        items.push((bias, Pickled::Tensor(zeros)));
    }
    assert_eq!(of_pickle("x.bin", &own).unwrap().hash().unwrap(), delta.hash().unwrap());
}

#[test]
fn the_scale_of_a_lora_is_alpha_by_rank() {
    let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
    let key = |part: &str| format!("{module}.{part}");
    let (up, down, alpha) = (key("lora_up.weight"), key("lora_down.weight"), key("alpha"));
    let halves: [(&str, &[usize]); 2] = [(&up, &[2, 4, 1, 1]), (&down, &[4, 3, 1, 1])];
    let product = |delta: &Delta| {
        let factors = &delta.factors[&format!("unet.{LAYER}.attn2.to_k.weight")];
        factors.product().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = of_ones(&halves).unwrap();
    assert_eq!(product(&plain), [4.0; 6]);
    let scaled = of_ones(&[&halves[..], &[(&alpha, &[])]].concat()).unwrap();
    assert_eq!(product(&scaled), [1.0; 6]);
    // a kernel of 1×1 is a matrix to the backbone that has one there
    let backbone = backbone();
    let name = format!("unet.{LAYER}.attn2.to_k.weight");
    let [out, inputs] = *super::super::delta::parameter(&backbone, &name).unwrap().shape() else {
        panic!()
    };
    let fits = of_ones(&[(&up, &[out, 4, 1, 1]), (&down, &[4, inputs, 1, 1])]).unwrap();
    assert_eq!(fits.whole(&backbone).unwrap().tensors[&name].dims(), [out, inputs]);
    let said = refused(plain.apply(&mut self::backbone()));
    assert!(said.contains("to_k.weight") && said.contains("[2, 3]"), "{said}");
}

#[test]
fn what_the_backbone_lacks_is_listed() {
    let lora = |block: usize| {
        let layer =
            format!("unet.down_blocks.{block}.attentions.0.transformer_blocks.0.attn1.to_q.lora");
        [(format!("{layer}.up.weight"), [2, 1]), (format!("{layer}.down.weight"), [1, 2])]
    };
    let all: Vec<(String, [usize; 2])> = (5..20).flat_map(lora).collect();
    let all: Vec<(&str, &[usize])> = all.iter().map(|(k, s)| (k.as_str(), &s[..])).collect();
    let said = refused(of_ones(&all).unwrap().apply(&mut backbone()));
    assert!(said.contains("lacks 15 of the 15 weights"), "{said}");
    assert!(said.contains("down_blocks.14.") && said.contains("and 5 more"), "{said}");
}

#[test]
fn a_file_speaks_one_dialect() {
    let up = "unet.mid_block.attentions.0.proj_in.lora.up.weight";
    let kohya = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight";
    let processor = format!("{LAYER}.attn2.processor.to_k_custom_diffusion.weight");
    for (one, other) in [(up, kohya), ("<new1>", up), (&*processor, kohya), (kohya, "embed")] {
        let said = refused(of_ones(&[(one, &[1, 1]), (other, &[1, 1])]));
        assert!(said.contains(one) && said.contains(other), "{said}");
    }
}

#[test]
fn other_kinds_of_files_are_refused_by_name() {
    let layer = "down_blocks.1.attentions.0.transformer_blocks";
    let deep = format!("unet.{layer}.3.attn1.to_q.lora.up.weight");
    let deep_kohya = format!("lora_unet_{}_1_attn1_to_q.alpha", layer.replace('.', "_"));
    let wide = format!("unet.{layer}.0.attn2.to_k.lora.down.weight");
    let pair = "lora_unet_mid_block_attentions_0_proj_in";
    let part = |name: &str| format!("{pair}.{name}");
    for (key, shape, wanted) in [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", &[][..], "XL"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", &[], "XL"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", &[1, 1], "XL"),
        ("clip_g", &[1, 1280], "XL"),
        (&deep, &[2, 1], "XL"),
        (&deep_kohya, &[], "XL"),
        (&wide, &[4, 2048], "XL"),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", &[1, 1], "transformer"),
        ("lora_unet_double_blocks_0_img_attn_qkv.alpha", &[], "transformer"),
        (&part("dora_scale"), &[1], "DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight", &[1], "DoRA"),
        (&part("hada_w1_a"), &[1, 1], "LoHa"),
        (&part("lokr_w1"), &[1, 1], "LoKr"),
        (&part("oft_blocks"), &[1, 1, 1], "OFT"),
        (&part("lora_mid.weight"), &[1, 1, 3, 3], "three factors"),
        (&part("diff"), &[1, 1], "LyCORIS"),
        (&part("lora_up.weight"), &[1, 1], "other half"),
        (&part("lora_left.weight"), &[1, 1], "lora_left"),
        ("somewhere.weight", &[1, 1], "somewhere"),
        ("model.diffusion_model.out.0.weight", &[1], "no weight of an attention"),
        ("unet.mid_block.attentions.0.proj_in.weight.u", &[1, 1], ".v`"),
        ("unet.mid_block.attentions.0.proj_in.weight.v", &[1, 1], ".u`"),
    ] {
        let said = refused(of_ones(&[(key, shape)]));
        assert!(said.contains(key) && said.contains(wanted), "{key}: {said}");
    }
    let (up, down) = (part("lora_up.weight"), part("lora_down.weight"));
    let said = refused(of_ones(&[(&up, &[4, 2]), (&down, &[3, 4])]));
    assert!(said.contains("[4, 2]") && said.contains("[3, 4]"), "{said}");
    assert!(refused(of_ones(&[(&up, &[4, 2, 3, 3]), (&down, &[2, 4])])).contains("[4, 2, 3, 3]"));
    let alpha = part("alpha");
    let three: [(&str, &[usize]); 3] = [(&up, &[4, 2]), (&down, &[2, 4]), (&alpha, &[2])];
    assert!(refused(of_ones(&three)).contains("2 numbers"));
}

#[test]
fn two_files_of_a_folder_hold_different_things() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["learned_embeds", "learned_embeds-steps-500"] {
        ones(&dir.path().join(format!("{name}.safetensors")), &[("<cat>", &[1, 2])]);
    }
    let said = refused(Delta::load(dir.path()));
    assert!(said.contains("two files hold `<cat>`") && said.contains("name the file"), "{said}");
    assert!(refused(Delta::load(tempfile::tempdir().unwrap().path())).contains("no weights"));
}

#[test]
fn pickles_that_lie_or_call_are_refused_at_this_door_too() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pickles");
    for (name, wanted) in [
        ("calls.pt", "nothing was run"),
        ("bomb.pt", "bomb.pt"),
        ("bomb_of_numbers.pt", "bomb_of_numbers.pt"),
        ("huge.pt", "huge.pt"),
        ("old.pt", "before version 1.6"),
    ] {
        let said = refused(Delta::load(&golden.join(name)));
        assert!(said.contains(wanted), "{name}: {said}");
    }
}
