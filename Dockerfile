# The server of cvft. The default torch is the package index's own build, for CUDA; for machines without a GPU the CPU build is
# much smaller: docker build --build-arg TORCH='torch==2.13.0 --index-url URL' with the address that pytorch.org gives.
FROM python:3.11-slim

ARG TORCH="torch==2.13.0"
# optional packages of pyproject.toml, such as [quantized]
ARG EXTRAS=""

WORKDIR /opt/cvft
# torch first and alone: it changes least, and with it installed nothing fetches another build
RUN pip install --no-cache-dir ${TORCH}
COPY pyproject.toml README.md LICENSE ./
COPY cvft cvft
RUN pip install --no-cache-dir ".${EXTRAS}"

RUN useradd --create-home --uid 10001 cvft
USER cvft
WORKDIR /home/cvft
ENV HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["cvft"]
# a container is reached from outside of itself: CVFT_API_KEY has to be given
CMD ["serve", "--model", "/model", "--host", "0.0.0.0"]
