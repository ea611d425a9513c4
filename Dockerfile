# The page on CPUs. Build: docker build -t brainmri .
# Run: docker run --rm --read-only --tmpfs /tmp -p 7860:7860 brainmri
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 brainmri
WORKDIR /app
COPY pyproject.toml README.md LICENSE requirements.txt ./
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu "torch~=2.11.0" "torchvision~=0.26.0" -r requirements.txt
COPY app.py ./
COPY assets assets
COPY brainmri brainmri
USER brainmri
ENV GRADIO_SERVER_NAME=0.0.0.0 GRADIO_ANALYTICS_ENABLED=False HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
HEALTHCHECK --start-period=120s --interval=30s --timeout=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health')"]
CMD ["python", "app.py"]
