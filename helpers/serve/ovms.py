"""The commands that serve the same IR with OpenVINO Model Server, a server in C++ from the same project.

Options: https://docs.openvino.ai/2026/model-server/ovms_docs_parameters.html
"""

from shlex import quote

from helpers.settings import Settings, display_path

GRAPH = """\
input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"
node: {{
  name: "LLMExecutor"
  calculator: "HttpLLMCalculator"
  input_stream: "LOOPBACK:loopback"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  input_side_packet: "LLM_NODE_RESOURCES:llm"
  output_stream: "LOOPBACK:loopback"
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  input_stream_info: {{ tag_index: "LOOPBACK:0", back_edge: true }}
  node_options: {{ [type.googleapis.com/mediapipe.LLMCalculatorOptions]: {{
    models_path: "{folder}", device: "{device}", cache_size: {cache}, enable_prefix_caching: true
  }} }}
  input_stream_handler {{
    input_stream_handler: "SyncSetInputStreamHandler",
    options {{ [mediapipe.SyncSetInputStreamHandlerOptions.ext] {{ sync_set {{ tag_index: "LOOPBACK:0" }} }} }}
  }}
}}"""


def commands(settings: Settings, port: int, cache_gb: int) -> str:
    """Return how to serve the chosen IR with OpenVINO Model Server, in Docker and without: text to print."""
    name, user, image = quote(settings.model.rpartition("/")[2]), "$(id -u):$(id -g)", "openvino/model_server:latest"
    if "GPU" in settings.device:
        user += " --device /dev/dri --group-add $(stat -c %g /dev/dri/render* | head -n 1)"
        image += "-gpu"
    common = f"--model_name {name} --rest_port {port} --api_key_file"
    if settings.model.startswith("OpenVINO/"):  # for these, OVMS creates the graph itself
        source = f"--source_model {settings.model} --task text_generation --target_device {settings.device}"
        source += f" --cache_size {cache_gb} --model_repository_path"
        docker = f"-v ./ovms:/ovms:rw {image} {source} /ovms/models {common} /ovms/key"
        metal, graph = f"{source} ovms/models --rest_bind_address 127.0.0.1 {common} ovms/key", ""
    else:
        folder = display_path(settings.model_dir)
        docker = f"-v ./ovms:/ovms:ro -v {quote(folder)}:/model:ro {image} --model_path /ovms {common} /ovms/key"
        metal = f"--model_path ovms --rest_bind_address 127.0.0.1 {common} ovms/key"
        text = GRAPH.format(folder="/model", device=settings.device, cache=cache_gb)
        graph = f"# ovms/graph.pbtxt; without Docker, models_path is the absolute path of {folder}:\n{text}\n\n"
    return (
        "# Not run here: OpenVINO Model Server is a Docker image or an archive, not a Python package.\n"
        "mkdir -p ovms && python -c 'import secrets; print(secrets.token_urlsafe(32))' > ovms/key\n\n"
        f"{graph}# Docker\ndocker run -d --rm --user {user} -p 127.0.0.1:{port}:{port} {docker}\n\n"
        f"# Bare metal\novms {metal}\n\n# Then: http://127.0.0.1:{port}/v3, model {name}, and the key in ovms/key"
    )
