//! What is learnt and what it is measured on: concepts, prompts, regularisation images.
