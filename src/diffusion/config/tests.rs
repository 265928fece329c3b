use super::*;
use proptest::prelude::*;

/// SD 1.5's UNet configuration, as published.
const SD15_UNET: &str = r#"{
  "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
  "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
  "center_input_sample": false, "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4,
  "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
  "out_channels": 4, "sample_size": 64,
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
}"#;

/// The keys in which SD 2.1's differs.
const SD21_UNET: &str = r#"{
  "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "dual_cross_attention": false,
  "only_cross_attention": false, "num_class_embeds": null, "use_linear_projection": true,
  "upcast_attention": true, "sample_size": 96
}"#;

fn unet(changes: &str) -> Result<UNetConfig> {
    let mut object = parse_object(SD15_UNET, Path::new("base")).unwrap();
    object.extend(parse_object(changes, Path::new("changes")).unwrap());
    UNetConfig::from_object(object, Path::new("unet/config.json"))
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result.unwrap_err() {
        Error::Input { message, .. } => message,
        other => panic!("{other:?} is no input error"),
    }
}

#[test]
fn published_configurations_are_understood() {
    let sd15 = unet("{}").unwrap();
    assert_eq!((0..4).map(|i| sd15.heads(i)).collect::<Vec<_>>(), [8; 4]);
    assert_eq!(sd15.time_embed_dim(), 1280);
    assert!(sd15.down_attends(0) && !sd15.down_attends(3));
    assert!(sd15.up_attends(0) && !sd15.up_attends(3));

    let sd21 = unet(SD21_UNET).unwrap();
    assert_eq!((0..4).map(|i| sd21.heads(i)).collect::<Vec<_>>(), [5, 10, 20, 20]);
    assert!(sd21.use_linear_projection && sd21.upcast_attention);
    assert_eq!(sd21.cross_attention_dim.at(3), 1024);
}

#[test]
fn num_attention_heads_goes_before_attention_head_dim() {
    assert_eq!(unet(r#"{"num_attention_heads": 4}"#).unwrap().heads(1), 4);
    assert_eq!(unet(r#"{"num_attention_heads": null}"#).unwrap().heads(1), 8);
}

#[test]
fn missing_keys_have_diffusers_defaults() {
    let config = UNetConfig::parse("{}", Path::new("c")).unwrap();
    assert_eq!(config, UNetConfig::default());
    let vae = VaeConfig::parse("{}", Path::new("c")).unwrap();
    assert_eq!(
        (vae.scaling_factor, vae.downscale(), vae.mid_block_add_attention),
        (0.18215, 1, true)
    );
    let text = TextEncoderConfig::parse("{}", Path::new("c")).unwrap();
    assert_eq!((text.hidden_size, text.hidden_act), (512, HiddenAct::QuickGelu));
    let scheduler = SchedulerConfig::parse("{}", Path::new("c")).unwrap();
    assert_eq!((scheduler.beta_end, scheduler.beta_schedule), (0.02, BetaSchedule::Linear));
    ModelIndex::default().check().unwrap();
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (change, key) in [
        (r#"{"_class_name": "UNet2DModel"}"#, "_class_name"),
        (r#"{"class_embed_type": "timestep"}"#, "class_embed_type"),
        (r#"{"num_class_embeds": 10}"#, "num_class_embeds"),
        (r#"{"addition_embed_type": "text_time"}"#, "addition_embed_type"),
        (r#"{"dual_cross_attention": true}"#, "dual_cross_attention"),
        (r#"{"only_cross_attention": true}"#, "only_cross_attention"),
        (r#"{"only_cross_attention": [false, false, false, true]}"#, "only_cross_attention"),
        (r#"{"resnet_time_scale_shift": "scale_shift"}"#, "resnet_time_scale_shift"),
        (r#"{"time_embedding_type": "fourier"}"#, "time_embedding_type"),
        (r#"{"encoder_hid_dim": 4096}"#, "encoder_hid_dim"),
        (r#"{"mid_block_type": "UNetMidBlock2D"}"#, "mid_block_type"),
        (r#"{"mid_block_type": null}"#, "mid_block_type"),
        (r#"{"transformer_layers_per_block": [1, 2, 10, 10]}"#, "transformer_layers_per_block"),
        (r#"{"conv_in_kernel": 1}"#, "conv_in_kernel"),
        (r#"{"mid_block_scale_factor": 1.4142}"#, "mid_block_scale_factor"),
        (r#"{"act_fn": "gelu"}"#, "act_fn"),
        (r#"{"down_block_types": ["AttnDownBlock2D"]}"#, "down_block_types"),
    ] {
        let error = message(unet(change));
        assert!(
            error.contains("unet/config.json") && error.contains(&format!("`{key}`")),
            "{error}"
        );
    }
}

#[test]
fn switched_off_extras_are_tolerated() {
    unet(
        r#"{"class_embed_type": null, "only_cross_attention": [false, false, false, false],
            "transformer_layers_per_block": [1, 1, 1, 1], "mid_block_scale_factor": 1.0,
            "dropout": 0.0, "mid_block_only_cross_attention": null, "act_fn": "swish",
            "a_key_from_the_future": {"x": 1}}"#,
    )
    .unwrap();
}

#[test]
fn absurd_values_are_refused_before_anything_is_allocated() {
    for (change, key) in [
        (r#"{"block_out_channels": [0, 640, 1280, 1280]}"#, "block_out_channels"),
        (r#"{"block_out_channels": []}"#, "block_out_channels"),
        (r#"{"block_out_channels": [320, 640]}"#, "down_block_types"),
        (
            r#"{"block_out_channels": [16384, 16384, 16384, 16384], "layers_per_block": 64}"#,
            "block_out_channels",
        ),
        (r#"{"block_out_channels": [1000000000000, 640, 1280, 1280]}"#, "block_out_channels"),
        (r#"{"layers_per_block": 1000000000}"#, "layers_per_block"),
        (r#"{"layers_per_block": 0}"#, "layers_per_block"),
        (r#"{"layers_per_block": [2, 2, 2]}"#, "layers_per_block"),
        (r#"{"layers_per_block": -1}"#, "layers_per_block"),
        (r#"{"layers_per_block": "two"}"#, "layers_per_block"),
        (r#"{"attention_head_dim": 7}"#, "attention_head_dim"),
        (r#"{"attention_head_dim": [8, 8]}"#, "attention_head_dim"),
        (r#"{"attention_head_dim": 0}"#, "attention_head_dim"),
        (r#"{"num_attention_heads": 7}"#, "num_attention_heads"),
        (r#"{"cross_attention_dim": [768]}"#, "cross_attention_dim"),
        (r#"{"cross_attention_dim": 0}"#, "cross_attention_dim"),
        (r#"{"norm_num_groups": 0}"#, "norm_num_groups"),
        (r#"{"norm_num_groups": 48}"#, "norm_num_groups"),
        (r#"{"norm_num_groups": null}"#, "norm_num_groups"),
        (r#"{"norm_eps": NaN}"#, "norm_eps"),
        (r#"{"norm_eps": 0}"#, "norm_eps"),
        (r#"{"in_channels": 0}"#, "in_channels"),
        (r#"{"out_channels": 4000000000}"#, "out_channels"),
        (r#"{"sample_size": 1000000}"#, "sample_size"),
        (r#"{"freq_shift": 160}"#, "freq_shift"),
        (r#"{"up_block_types": ["UpBlock2D"]}"#, "up_block_types"),
    ] {
        let error = message(unet(change));
        assert!(
            error.contains("unet/config.json") && error.contains(&format!("`{key}`")),
            "{change}: {error}"
        );
    }
}

#[test]
fn the_other_configurations_are_checked_too() {
    let at = Path::new("x.json");
    for text in [
        r#"{"_class_name": "AutoencoderTiny"}"#,
        r#"{"block_out_channels": [48]}"#,
        r#"{"block_out_channels": [64, 128]}"#,
        r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#,
        r#"{"layers_per_block": 1000000000}"#,
        r#"{"latent_channels": 0}"#,
        r#"{"scaling_factor": 0}"#,
        r#"{"scaling_factor": -Infinity}"#,
        r#"{"latents_mean": [0.1]}"#,
        r#"{"act_fn": "relu"}"#,
    ] {
        assert!(message(VaeConfig::parse(text, at)).contains("x.json: `"), "{text}");
    }
    for text in [
        r#"{"model_type": "t5"}"#,
        r#"{"architectures": ["CLIPTextModelWithProjection"]}"#,
        r#"{"num_attention_heads": 7}"#,
        r#"{"num_attention_heads": 0}"#,
        r#"{"num_hidden_layers": 1000000000}"#,
        r#"{"vocab_size": 1000000000000}"#,
        r#"{"hidden_act": "relu"}"#,
        r#"{"layer_norm_eps": 2}"#,
    ] {
        assert!(message(TextEncoderConfig::parse(text, at)).contains("x.json: `"), "{text}");
    }
    for text in [
        r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#,
        r#"{"num_train_timesteps": 0}"#,
        r#"{"num_train_timesteps": 1000000000}"#,
        r#"{"beta_start": 0}"#,
        r#"{"beta_end": 1.5}"#,
        r#"{"beta_schedule": "sigmoid"}"#,
        r#"{"trained_betas": [0.1]}"#,
        r#"{"num_train_timesteps": 1, "trained_betas": [1.0]}"#,
        r#"{"prediction_type": "flow_prediction"}"#,
        r#"{"thresholding": true}"#,
        r#"{"rescale_betas_zero_snr": true}"#,
        r#"{"steps_offset": 1000}"#,
        r#"{"timestep_spacing": "karras"}"#,
        r#"{"clip_sample_range": 0}"#,
    ] {
        assert!(message(SchedulerConfig::parse(text, at)).contains("x.json: `"), "{text}");
    }
    for text in [
        r#"{"_class_name": "StableDiffusionXLPipeline"}"#,
        r#"{"unet": ["diffusers", "UNet2DModel"]}"#,
        r#"{"tokenizer": ["transformers", "T5Tokenizer"]}"#,
        r#"{"vae": null}"#,
    ] {
        assert!(message(ModelIndex::parse(text, at)).contains("x.json: `"), "{text}");
    }
}

#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = UNetConfig::read(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("unet/config.json"));
    let path = dir.path().join(UNetConfig::FILE);
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    for bytes in [&b"{\"in_channels\": 4"[..], b"", b"[1]", b"\xff\xfe{}"] {
        std::fs::write(&path, bytes).unwrap();
        assert!(message(UNetConfig::read(dir.path())).contains("config.json"));
    }
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(message(UNetConfig::read(dir.path())).contains("too many"));
}

#[test]
fn pythons_constants_are_read() {
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity,
                   "note": "NaN \"Infinity\" \\", "x": [NaN, Infinity]}"#;
    let config = SchedulerConfig::parse(text, Path::new("c")).unwrap();
    assert_eq!(config.lambda_min_clipped, None);
    assert_eq!(config.extra["note"], "NaN \"Infinity\" \\");
}

#[test]
fn what_is_written_is_read_again_with_its_unknown_keys() {
    let dir = tempfile::tempdir().unwrap();
    let config = unet(SD21_UNET).unwrap();
    config.write(dir.path()).unwrap();
    assert_eq!(UNetConfig::read(dir.path()).unwrap(), config);
    let written = read_object(&dir.path().join(UNetConfig::FILE)).unwrap();
    assert_eq!(written["_class_name"], "UNet2DConditionModel");
    assert_eq!(written["mid_block_scale_factor"], 1);
    // diffusers refuses this key unless it is null
    assert!(!written.contains_key("num_attention_heads"));

    let pndm = r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": true, "steps_offset": 1,
                   "set_alpha_to_one": false, "clip_sample": false}"#;
    let config = SchedulerConfig::parse(pndm, Path::new("c")).unwrap();
    config.write(dir.path()).unwrap();
    assert_eq!(SchedulerConfig::read(dir.path()).unwrap(), config);
    let written = read_object(&dir.path().join(SchedulerConfig::FILE)).unwrap();
    assert_eq!(written["skip_prk_steps"], true);
    assert_eq!(written["_class_name"], "PNDMScheduler");
}

proptest! {
    /// No value of any key makes reading panic, and what is taken is within bounds.
    #[test]
    fn any_number_is_taken_or_refused(
        key in prop::sample::select(vec![
            "in_channels", "block_out_channels", "layers_per_block", "attention_head_dim",
            "num_attention_heads", "cross_attention_dim", "norm_num_groups", "freq_shift", "sample_size",
        ]),
        number in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)],
        list in any::<bool>(),
    ) {
        let value = if list { Value::from(vec![number; 4]) } else { number };
        if let Ok(config) = unet(&serde_json::json!({ key: value }).to_string()) {
            prop_assert!(config.parameters() <= 2e10);
            prop_assert!(config.norm_num_groups > 0 && config.heads(3) > 0);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "[\\PC\"\\\\-]{0,40}") {
        let _ = SchedulerConfig::parse(&text, Path::new("c"));
        let _ = SchedulerConfig::parse(&format!("{{\"a\": {text}}}"), Path::new("c"));
    }
}
