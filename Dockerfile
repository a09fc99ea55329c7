# clipeval in a container, out of this clone and the package index alone.
#   docker build -t clipeval .                                                                     PyPI's torch: CUDA, and CPUs as well
#   docker build -t clipeval:cpu --build-arg TORCH=https://download.pytorch.org/whl/cpu .          smaller, without CUDA
#   docker run --rm --gpus all -v "$PWD/runs:/work/runs" -v /data:/data clipeval run suite=imagenet data.root=/data
FROM python:3.11-slim
ARG TORCH=""
ARG EXTRAS=""
WORKDIR /opt/clipeval
COPY . .
RUN scripts/install ${TORCH:+--torch "$TORCH"} $EXTRAS && rm -rf /root/.cache
ENV PATH=/opt/clipeval/.venv/bin:$PATH CLIPEVAL_CACHE=/work/cache HF_HOME=/work/huggingface
WORKDIR /work
ENTRYPOINT ["clipeval"]
CMD ["doctor"]
