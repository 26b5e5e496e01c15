"""One model for many people: an OpenAI-compatible server around OpenVINO GenAI's continuous batching."""
