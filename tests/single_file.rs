//! Backbones in single files, with the names that diffusers' own conversion knows (tests/golden/README.md):
//! the same tensors and images as the folders they are made of, and what is said of files that are none.

mod common;
mod desk;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cdbench::diffusion::config::PredictionType;
use cdbench::diffusion::scheduler::SchedulerKind;
use cdbench::diffusion::{Backbone, BackboneFiles, BackboneSpec, Part, Request, Sampling};
use cdbench::engine::backbone_hash;
use common::path;
use desk::{Desk, ok, refused};

type Tensors = HashMap<String, Tensor>;

/// The tensors of a golden backbone as a single file has them, with what else is in such files.
fn tensors(name: &str) -> Tensors {
    let text = std::fs::read_to_string(path("single_file_names.json")).unwrap();
    let names: BTreeMap<String, BTreeMap<String, Vec<String>>> =
        serde_json::from_str(&text).unwrap();
    let folder = BackboneFiles::open(&path(name).as_str().into()).unwrap();
    let weights = Part::ALL.map(|part| folder.weights(part).unwrap());
    let get = |name: &String| {
        let (part, key) = name.split_once('.').unwrap();
        let at = Part::ALL.iter().position(|p| p.name() == part).unwrap();
        weights[at].tensor(key, &weights[at].shape(key).unwrap()).unwrap()
    };
    let mut tensors = Tensors::new();
    for (file, ours) in &names[name] {
        let parts: Vec<Tensor> = ours.iter().map(get).collect();
        let mut tensor = Tensor::cat(&parts, 0).unwrap();
        if file.contains(".mid.attn_1.") && tensor.rank() == 2 {
            tensor = tensor.unsqueeze(2).unwrap().unsqueeze(3).unwrap();
        }
        tensors.insert(file.clone(), tensor);
    }
    let one = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
    for leftover in [
        "model_ema.diffusion_modelout2bias",
        "first_stage_model.loss.logvar",
        "alphas_cumprod",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.logit_scale",
    ] {
        tensors.insert(leftover.to_owned(), one.clone());
    }
    if name == "sd2" {
        // the block that is not used, of any shape
        let last = "cond_stage_model.model.transformer.resblocks.2";
        for key in ["ln_1.weight", "attn.in_proj_weight", "mlp.c_fc.bias"] {
            tensors.insert(format!("{last}.{key}"), one.clone());
        }
        tensors.insert("cond_stage_model.model.text_projection".into(), one);
    }
    tensors
}

fn write(file: &Path, tensors: &Tensors) {
    candle_core::safetensors::save(tensors, file).unwrap();
}

/// The file, configured by the folder it is made of.
fn spec(file: &Path, name: &str) -> BackboneSpec {
    let config = Some(path(name).into());
    BackboneSpec { config, ..file.to_str().unwrap().into() }
}

fn image(files: &BackboneFiles) -> Vec<u8> {
    let backbone = Backbone::read(files, &Device::Cpu, DType::F32).unwrap();
    let (width, height) = backbone.default_size();
    let sampling = Sampling {
        steps: 2,
        guidance: 5.0,
        scheduler: SchedulerKind::Ddim,
        eta: 0.0,
        height,
        width,
        negative_prompt: String::new(),
    };
    let request = Request::new("photo of a dog", 3);
    let samples = backbone.sample(&[request], &sampling, &|_| Ok(())).unwrap();
    samples[0].image.as_raw().clone()
}

#[test]
fn a_single_file_has_the_tensors_and_the_images_of_its_folder() {
    let desk = Desk::new();
    for name in ["sd1", "sd2"] {
        let folder = BackboneFiles::open(&path(name).as_str().into()).unwrap();
        let whole = tensors(name);
        let mut bare = whole.clone();
        // as files of SD 1.x were before, and as trainers save
        let under = "cond_stage_model.transformer.text_model.";
        let older = whole.iter().map(|(key, tensor)| {
            let key = match key.strip_prefix(under) {
                Some(rest) => format!("cond_stage_model.transformer.{rest}"),
                None => key.clone(),
            };
            (format!("state_dict.{key}"), tensor.clone())
        });
        let mut older: Tensors = older.collect();
        older.insert("optimizer_states.0.step".into(), bare["alphas_cumprod"].clone());
        bare.retain(|key, _| !key.starts_with("model_ema."));
        for (form, tensors) in [("whole", whole), ("bare", bare), ("older", older)] {
            let file = desk.dir.path().join(format!("{name}-{form}.safetensors"));
            write(&file, &tensors);
            let single = BackboneFiles::open(&spec(&file, name)).unwrap();
            for part in Part::ALL {
                let (found, wanted) =
                    (single.weights(part).unwrap(), folder.weights(part).unwrap());
                let unneeded = |key: &&str| !key.ends_with("position_ids");
                let keys: Vec<&str> = found.keys().filter(unneeded).collect();
                assert_eq!(keys, wanted.keys().collect::<Vec<_>>(), "{name} {form}");
                for key in wanted.keys() {
                    let shape = wanted.shape(key).unwrap();
                    let [a, b] = [&found, &wanted].map(|w| w.tensor(key, &shape).unwrap());
                    let [a, b] = [a, b].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                    assert_eq!(a, b, "{name} {form} {key}");
                }
                found.finish().unwrap();
            }
            assert!(image(&single) == image(&folder), "{name} {form}");
        }
    }
}

/// A file that has what an architecture is told by, and no more.
fn hinted(file: &Path, features: usize, more: &[&str]) {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let mut tensors = Tensors::from([
        ("model.diffusion_model.input_blocks.0.0.weight".to_owned(), zeros(&[1, 4, 3, 3])),
        ("first_stage_model.quant_conv.bias".to_owned(), zeros(&[1])),
        ("cond_stage_model.transformer.text_model.x".to_owned(), zeros(&[1])),
        (
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
                .to_owned(),
            zeros(&[1, features]),
        ),
    ]);
    tensors.extend(more.iter().map(|key| ((*key).to_owned(), zeros(&[1]))));
    write(file, &tensors);
}

#[test]
fn published_models_are_told_apart_and_users_have_the_last_word() {
    use PredictionType::{Epsilon, VPrediction};
    let desk = Desk::new();
    let file = desk.dir.path().join("model.safetensors");
    for (features, more, said, predicts, side, pad) in [
        (768, vec![], None, Epsilon, 512, 49407),
        (768, vec![], Some(VPrediction), VPrediction, 512, 49407),
        (1024, vec![], None, Epsilon, 512, 0),
        (1024, vec![], Some(VPrediction), VPrediction, 768, 0),
        (1024, vec!["v_pred"], None, VPrediction, 768, 0),
        (1024, vec!["v_pred"], Some(Epsilon), Epsilon, 512, 0),
    ] {
        hinted(&file, features, &more);
        let given = BackboneSpec { prediction: said, ..file.to_str().unwrap().into() };
        let blueprint = BackboneFiles::open(&given).unwrap().blueprint;
        assert_eq!(blueprint.scheduler.prediction_type, predicts, "{features} {more:?} {said:?}");
        assert_eq!(blueprint.default_size(), (side, side), "{features} {more:?} {said:?}");
        assert_eq!(blueprint.text_encoder.hidden_size, features);
        assert_eq!((blueprint.tokenizer.pad_id(), blueprint.tokenizer.vocab_size()), (pad, 49408));
    }
}

#[test]
fn what_is_computed_with_is_the_identity() {
    let desk = Desk::new();
    let [file, copy] = ["a.safetensors", "b.safetensors"].map(|name| desk.dir.path().join(name));
    hinted(&file, 768, &[]);
    std::fs::copy(&file, &copy).unwrap();
    let hash = |file: &Path, prediction| {
        let given = BackboneSpec { prediction, ..file.to_str().unwrap().into() };
        let cache = desk.dir.path().join("hashes");
        backbone_hash(&BackboneFiles::open(&given).unwrap(), &cache).unwrap()
    };
    let own = hash(&file, None);
    assert_eq!(own, hash(&copy, None), "names are no part of it");
    assert_eq!(own, hash(&file, Some(PredictionType::Epsilon)), "what is assumed, said");
    assert_ne!(own, hash(&file, Some(PredictionType::VPrediction)));
    hinted(&file, 768, &["more.x"]);
    assert_ne!(own, hash(&file, None));
}

#[test]
fn what_is_no_backbone_is_told() {
    let desk = Desk::new();
    let file = desk.dir.path().join("model.safetensors");
    let one = || Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
    let said = |config: Option<&str>| {
        let given = BackboneSpec {
            config: config.map(|name| path(name).into()),
            ..file.to_str().unwrap().into()
        };
        let error = BackboneFiles::open(&given)
            .and_then(|files| Backbone::read(&files, &Device::Cpu, DType::F32).map(|_| ()))
            .unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        format!("{error} {}", error.hint().unwrap_or_default())
    };
    // other models, by a name that they have
    for (key, words) in [
        ("conditioner.embedders.0.transformer.text_model.x", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "--checkpoint"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "--checkpoint"),
        ("down_blocks.0.resnets.0.conv1.weight", "model_index.json"),
        ("emb_params", "`emb_params`"),
    ] {
        write(&file, &Tensors::from([(key.to_owned(), one())]));
        let found = said(None);
        assert!(found.contains(words), "{key}: {found}");
    }
    // another number of features, or of channels
    hinted(&file, 640, &[]);
    assert!(said(None).contains("640") && said(None).contains("--backbone-config"));
    let change = |spoil: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors("sd1");
        spoil(&mut tensors);
        write(&file, &tensors);
        said(Some("sd1"))
    };
    let first = "model.diffusion_model.input_blocks.0.0.weight";
    let wide = || Tensor::zeros((24, 9, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let found = change(&|t| drop(t.insert(first.to_owned(), wide())));
    assert!(found.contains("inpainting"), "{found}");
    // a part that lacks, and one that lies in the folder
    for (prefix, words) in [
        ("first_stage_model.", ["no VAE", "vae/"]),
        ("cond_stage_model.", ["no text encoder", "text_encoder/"]),
    ] {
        let mut pruned = tensors("sd1");
        pruned.retain(|key, _| !key.starts_with(prefix));
        write(&file, &pruned);
        let single = BackboneFiles::open(&spec(&file, "sd1")).unwrap();
        let folder = BackboneFiles::open(&path("sd1").as_str().into()).unwrap();
        assert!(image(&single) == image(&folder), "the folder has what lacks");
        let copy = desk.dir.path().join(prefix);
        copy_but_weights(Path::new(&path("sd1")), &copy);
        let given = BackboneSpec { config: Some(copy), ..file.to_str().unwrap().into() };
        let error = BackboneFiles::open(&given).err().unwrap();
        let found = format!("{error} {}", error.hint().unwrap());
        assert!(words.iter().all(|word| found.contains(word)), "{found}");
    }
    // tensors that are missing, strange, or of another shape: under the file's name and diffusers'
    let found = change(&|t| drop(t.remove("model.diffusion_model.out.2.bias")));
    assert!(found.contains("conv_out.bias") && found.contains("missing"), "{found}");
    let found = change(&|t| drop(t.insert("surprise.weight".to_owned(), one())));
    assert!(found.contains("surprise.weight") && found.contains("no place"), "{found}");
    let bias = "model.diffusion_model.output_blocks.0.0.in_layers.2.bias";
    let found = change(&|t| drop(t.insert(bias.to_owned(), one())));
    assert!(found.contains(bias) && found.contains("up_blocks.0.resnets.0.conv1.bias"), "{found}");
    // cut, and in the language of another program
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(said(Some("sd1")).contains("cut short"));
    std::fs::copy(path("pickles/calls.pt"), &file).unwrap();
    assert!(said(Some("sd1")).contains("os"), "{}", said(Some("sd1")));
}

fn copy_but_weights(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_but_weights(&entry.path(), &target),
            false if entry.path().extension().is_some_and(|e| e == "safetensors") => {}
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn commands_take_single_files_and_export_writes_them_as_folders() {
    let desk = Desk::new();
    let (file, config) = (desk.path("sd2.safetensors"), path("sd2"));
    write(Path::new(&file), &tensors("sd2"));
    let sampled = |backbone: &[&str], out: &str| {
        let out = desk.path(out);
        let args = ["sample", "--prompt", "a dog", "--steps", "2", "-o", &out, "--backbone"];
        ok(&[&args[..], backbone].concat());
        image::open(out).unwrap().to_rgb8().into_raw()
    };
    let wanted = sampled(&[&config], "folder.png");
    let configured = [&file[..], "--backbone-config", &config];
    assert!(sampled(&configured, "file.png") == wanted);
    let other = [&configured[..], &["--prediction", "epsilon"]].concat();
    assert!(sampled(&other, "epsilon.png") != wanted, "the user has the last word");

    let out = desk.path("exported");
    let args = ["export", &file, &out, "--backbone-config", &config, "--dtype", "f16"];
    assert_eq!(ok(&args).trim(), out);
    assert!(sampled(&[&out], "exported.png") == wanted, "f16 holds what was f16");
    let bytes = std::fs::metadata(desk.path("exported/unet/diffusion_pytorch_model.safetensors"));
    assert!(bytes.unwrap().len() < std::fs::metadata(&file).unwrap().len() / 2);
    for file in ["tokenizer/vocab.json", "tokenizer/merges.txt"] {
        assert!(Path::new(&out).join(file).is_file(), "transformers' CLIPTokenizer reads {file}");
    }
    assert!(refused(&args).contains("not empty"));
    let folder = ["export", &config, &desk.path("x"), "--prediction", "v"];
    assert!(refused(&folder).contains("says itself"));
}
